"""Rows with missing entries: residuals, log-density and derivatives of the marginal density of each row's observed entries.

Nested patterns of observed entries share one Cholesky factorisation. The package may use `covariance` and the packages below
it. Its interface is `incomplete_residuals.IncompleteResiduals` and `incomplete_blocks.incomplete_block`, for `information` also
`nested_cholesky.FactoredBatch`.
"""
