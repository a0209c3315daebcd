"""From parameters to whitened residuals: the factor of a covariance, the residuals of rows against it, and their sums.

It may use `linalg`, `parameters`, `statistics`, `kernels` and `tensors`. Interface: `factor.Factor`, `residuals.Residuals`,
`sums.WhitenedMoments`, `cache`."""
