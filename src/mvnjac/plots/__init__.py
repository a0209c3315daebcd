"""Charts on matplotlib axes, drawn from arrays: maps of matrices, rows over time, estimates, quantiles, and missing entries.

The package knows NumPy arrays and lists of labels, not models; it may use `errors` alone. Interface: the functions `draw_…` of its
modules, `palette.Palette`, `axes.new_axes`, and `axes.thin_labels`. matplotlib is imported by the modules, and these only by what
draws.
"""
