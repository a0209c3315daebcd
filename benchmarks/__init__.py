"""The library against its peers and the floor of the machine: `python -m benchmarks`."""
