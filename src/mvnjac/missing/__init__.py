"""Rows with missing entries: residuals, log-densities and derivatives of the marginal density of each row's observed entries.

Nested patterns of observed entries share one Cholesky factorisation. The package may use `covariance` and the packages below it. Its
interface: `incomplete_residuals.IncompleteResiduals`, `incomplete_blocks.incomplete_block`; for `information`, `nested_cholesky`."""
