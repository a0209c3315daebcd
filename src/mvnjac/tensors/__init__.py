"""What torch is doing with the tensors at hand, and what they cost.

Tracing and transforms, the precision of arithmetic, broadcasting of batches of rows and parameters, memory. It may use `mvnjac.errors`
alone, and every other package uses it. Interface: `tracing`, `precision`, `broadcasting`, `memory`, `allocation`."""
