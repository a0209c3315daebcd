"""From arguments to residuals: what is given is checked, named, brought to one precision and factorised once.

It may use `missing`, `covariance` and what is below them. Interface: `model.Model`, `elements`, `torch_distributions`."""
