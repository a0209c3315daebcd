"""First order: the Jacobian of the log-density, and everything that is formed of it.

It may use `model`, `fused` and what is below them. Interface: `jacobian` (public), `evaluation.Derivatives`, `column_norms`."""
