"""Second derivatives: the Hessian and the Fisher information as products, matrices and solutions, and the natural gradient.

`functions` is the entry point, `operators` has the classes that users get, and `curvature` the base classes that each kind of
covariance implements. The package may use `autodiff`, `score` and the packages below them. Its interface for other packages
is `functions` and `operators`.
"""
