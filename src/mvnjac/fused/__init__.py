"""The common shapes in one kernel call: rows of one Gaussian, many Gaussians of one row each, a training step.

Where anything is out of the ordinary these give None, and the general way serves. It may use `parameters`, `kernels` and `tensors`.
Interface: `dense.everyday`, `training_step.training_step`."""
