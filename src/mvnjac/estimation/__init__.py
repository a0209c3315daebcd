"""Maximum-likelihood estimation: `fit` and its result, likelihood-ratio tests, and model files.

The package may use `gaussian` and the layers below it. Interface for other packages: `fit.fit`, `result.Fit`,
`maximum.fit_sample`, `structure` (`choose`, `Choice`, `choices`, `manual`, `kebab`), `model_file`, `conditioning`,
`boundary.free_columns` and `likelihood_ratio`. Reading order: fit, maximum, likelihood (or factor_search), quasi_newton.
"""
