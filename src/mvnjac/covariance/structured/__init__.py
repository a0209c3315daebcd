"""Structured covariances, one file each, with the algebra that only one of them uses."""
