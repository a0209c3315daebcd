"""The Triton kernels, through their interpreter and their compiler; `make test-triton` runs them."""
