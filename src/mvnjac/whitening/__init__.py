"""From parameters to whitened residuals: the factor of a covariance, the residuals of rows, and their sums.

The package may use `parameters`, `linalg`, `statistics`, `kernels`, `tensors` and `errors`. Interface:
`factor` (`Factor`, `DenseFactor`), `residuals` (`Residuals`), `sums` (`WhitenedMoments`) and `cache`."""
