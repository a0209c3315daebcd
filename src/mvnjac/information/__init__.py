"""Second order: the Fisher information and the Hessian, as matrices, products and solutions.

It may use `autodiff`, `score` and what is below them. Interface: `functions` (public), `operators`, `curvature`."""
