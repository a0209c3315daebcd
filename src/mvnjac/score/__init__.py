"""First derivatives: the Jacobian of the log-density, its sums and products over rows, and the choice of algorithm for each.

The package may use `model`, `fused` and the packages below them. Its interface for other packages: `jacobian` (public),
`evaluation`, `row_arguments`, `column_norms` (sums of squared scores) and `streaming` (sums over batches of a table)."""
