"""Helpers around torch tensors: the state of torch (tracing, transforms, modes), precision, broadcasting and memory.

The package may use only `mvnjac.errors`; every other package may use it. Interface: `tracing`, `full_precision`, `broadcasting`,
`memory`, `allocation`."""
