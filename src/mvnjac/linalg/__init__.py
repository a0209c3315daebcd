"""Linear algebra without reference to Gaussians: triangular, banded, Toeplitz and low-rank matrices, products and solvers.

The package may use `kernels`, `tensors` and `errors`. Each module is part of the interface; read `triangular` first."""
