"""Benchmarks of mvnjac against other libraries and lower bounds: `python -m benchmarks`."""
