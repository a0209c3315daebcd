"""Parameters of a Gaussian as vectors: unique elements, names, selection of columns, and checks of values.

The package may use `kernels`, `tensors` and `errors`. Interface: `coordinates` (`vech` and related classes), `names`,
`selection` and `checks`; `predicates` serves `checks`."""
