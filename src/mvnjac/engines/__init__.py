"""Engines: they run a `Job` on the slices of a table, in this process, in worker processes or on Ray, and merge its sums.

The package may use `tables`, `statistics`, `tensors` and `errors`; it knows nothing of Gaussians. Interface for other packages:
`run.Run`, `job` (`Job`, `Unit`, `Result`, `File`, `digest`), `engine.Resources`, `local.Local`, `folder.Folder`, `manifest`,
`verification`, `checkpoint.Checkpoint`.
"""
