"""Tests of the Triton kernels with Triton's interpreter and compiler; `make test-triton` runs them."""
