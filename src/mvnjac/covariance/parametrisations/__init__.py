"""Parametrisations of a dense covariance, one file each: every covariance has derivatives by these parameters."""
