"""Rows with missing entries: residuals of each row's marginal density, pattern by pattern.

Patterns that are nested in each other share one Cholesky factorisation. It may use `covariance` and what is below it. Interface:
`incomplete_residuals.IncompleteResiduals`, `marginals`, `incomplete_blocks`, `nested_cholesky`."""
