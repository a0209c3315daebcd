"""A block of the Jacobian, the derivative by one parameter, held as n·d numbers instead of n·p.

It may use `parameters`, `linalg`, `kernels` and `tensors`. Interface: `base.Block`, `base.Entrywise`, `outer.Outer`, `gram.Gram`."""
