"""Parameters of a Gaussian as vectors: unique elements, names, selections, and checks of their values.

It may use `tensors` and `kernels`. Interface: `coordinates` (`vech` and its kind), `names`, `selection`, `checks`."""
