"""Structured covariances, one file each, with the algebra that belongs to one of them alone."""
