"""Maximum-likelihood estimation: `fit` and its result, and model files.

The package may use `inference` and the layers below it. Interface for other packages: `fit.fit`, `result.Fit`,
`maximum.fit_sample`, `structure` (`choose`, `Choice`, `choices`, `manual`, `kebab`), `model_file` and `conditioning`. Reading
order: fit, maximum, likelihood (or factor_search), quasi_newton.
"""
