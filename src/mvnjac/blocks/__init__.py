"""Blocks of the Jacobian, each the derivative with respect to one parameter, stored as n·d values instead of n·p.

The package may use `parameters`, `linalg`, `kernels`, `tensors` and `errors`. Interface: `base.Block`,
`base.Entrywise`, `outer.Outer` and `gram.Gram`."""
