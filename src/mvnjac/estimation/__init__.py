"""Maximum likelihood: `fit`, its result, likelihood-ratio tests, and files of models.

It may use `gaussian` and what is below it. Interface: `fit`, `result.Fit`, `model_file.load`, `maximum.fit_sample`."""
