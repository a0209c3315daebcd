"""The log-density as a differentiable torch function: derivatives of every order, under every transform, from closed forms.

The package may use `score` and the packages below it. Interface: `log_prob` (public) and `directional`."""
