"""Common shapes in one or two kernel calls: rows of one Gaussian, a batch of Gaussians with one row each, a training step.

Each function returns None for arguments that it does not support; callers then use the general code. The package may use
`parameters`, `kernels` and `tensors`. Interface: `dense.fused_rows`, `dense.prepare` and `training_step.training_step`."""
