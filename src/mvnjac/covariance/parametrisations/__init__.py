"""Parametrisations of a dense covariance, one file each. Every covariance has derivatives with respect to their parameters."""
