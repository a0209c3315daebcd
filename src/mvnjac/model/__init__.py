"""Parses and checks the arguments of public functions, and factorises the covariance once: arguments → model → residuals.

The package may use `missing`, `covariance` and the packages below them. Its interface for other packages: `arguments.parse`,
`model.Model`, `elements` (elements of any parametrisation as functions of the model's parameters) and `torch_distributions`."""
