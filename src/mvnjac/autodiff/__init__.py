"""The log-density as a differentiable function of torch, to any order, by the closed forms of `score`.

It may use `score` and what is below it. Interface: `log_prob` (public), `directional`."""
