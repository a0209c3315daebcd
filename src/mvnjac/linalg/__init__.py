"""Linear algebra that knows no Gaussian: triangles, banded and Toeplitz matrices, solvers.

It may use `tensors` and `kernels`. Each module is an interface of its own; read `triangular` first."""
