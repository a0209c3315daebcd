"""JAX: the density by its textbook formula, compiled. JAX is imported by the functions that prepare an implementation."""

from __future__ import annotations

import math

from benchmarks.workload import Data

#: bytes of operands, below which jit is used, whose dispatch is some microseconds faster than that of an executable compiled ahead
#: of time; above, compilation ahead of time keeps it out of the first call, whose memory is measured
SMALL = 1_000_000


def _compiled(function, names: tuple[str, ...], operands):
    """A call that is compiled for these operands, and waits for its results."""
    import jax

    compiled = jax.jit(function)
    if sum(operand.nbytes for operand in operands) < SMALL:
        compiled(*operands)
    else:
        compiled = compiled.lower(*operands).compile()

    def call():
        results = jax.block_until_ready(compiled(*operands))
        return dict(zip(names, jax.tree.leaves(results), strict=True))

    return call


def _arrays(data: Data):
    import jax

    jax.config.update("jax_enable_x64", True)
    return tuple(jax.device_put(data[name]) for name in data)


def _density(x, mean, covariance):
    """log p of one x (d,)."""
    import jax.numpy as jnp
    from jax.scipy.linalg import solve_triangular

    L = jnp.linalg.cholesky(covariance)
    z = solve_triangular(L, x - mean, lower=True)
    return -0.5 * (z @ z) - jnp.log(jnp.diagonal(L)).sum() - 0.5 * len(mean) * math.log(2 * math.pi)


def _total_density(x, mean, covariance):
    """Σ log p of the rows of x (n, d): one factor, one solve."""
    import jax.numpy as jnp
    from jax.scipy.linalg import solve_triangular

    n, d = x.shape
    L = jnp.linalg.cholesky(covariance)
    z = solve_triangular(L, (x - mean).T, lower=True)
    return -0.5 * (z * z).sum() - n * (jnp.log(jnp.diagonal(L)).sum() + 0.5 * d * math.log(2 * math.pi))


def _low_rank_density(x, mean, W, v):
    """Σ log p of the rows of x (n, d), with the Woodbury identity, as in NumPyro and torch.distributions."""
    import jax.numpy as jnp
    from jax.scipy.linalg import solve_triangular

    n, d = x.shape
    scaled = W / v[:, None]
    M = jnp.linalg.cholesky(jnp.eye(W.shape[1], dtype=W.dtype) + W.T @ scaled)
    r = x - mean
    w = solve_triangular(M, (r @ scaled).T, lower=True)
    log_det = 2 * jnp.log(jnp.diagonal(M)).sum() + jnp.log(v).sum()
    return -0.5 * ((r * r / v).sum() - (w * w).sum() + n * (log_det + d * math.log(2 * math.pi)))


def matrix(data: Data):
    import jax

    per_row = jax.vmap(jax.grad(_density, argnums=(1, 2)), (0, None, None))
    return _compiled(per_row, ("mean", "covariance"), _arrays(data))


def total(data: Data):
    import jax

    return _compiled(jax.value_and_grad(_total_density, argnums=(1, 2)), ("value", "mean", "covariance"), _arrays(data))


def one_per_row(data: Data):
    import jax

    both = jax.vmap(jax.value_and_grad(_density, argnums=(1, 2)))
    return _compiled(both, ("value", "mean", "covariance"), _arrays(data))


def log_prob(data: Data):
    import jax

    return _compiled(jax.vmap(_density, (0, None, None)), ("value",), _arrays(data))


def low_rank(data: Data):
    import jax

    both = jax.value_and_grad(_low_rank_density, argnums=(1, 2, 3))
    return _compiled(both, ("value", "mean", "cov_factor", "cov_diag"), _arrays(data))


def gram(data: Data):
    """The n×p matrix over the unique elements from vmap(grad), times its transpose."""
    import jax
    import jax.numpy as jnp

    x, mean, covariance = _arrays(data)
    columns, rows = jnp.triu_indices(len(mean))
    twice = jnp.where(rows == columns, 1, 2).astype(x.dtype)
    per_row = jax.vmap(jax.grad(_density, argnums=(1, 2)), (0, None, None))

    def product(x, mean, covariance):
        by_mean, by_matrix = per_row(x, mean, covariance)
        J = jnp.concatenate([by_mean, by_matrix[:, rows, columns] * twice], -1)
        return J.T @ J

    return _compiled(product, ("gram",), (x, mean, covariance))


def hessian(data: Data):
    import jax
    import jax.numpy as jnp

    x, mean, covariance = _arrays(data)
    d = len(mean)
    columns, rows = jnp.triu_indices(d)

    def by_unique(parameters):
        lower = jnp.zeros((d, d), x.dtype).at[rows, columns].set(parameters[d:])
        return _total_density(x, parameters[:d], lower + jnp.tril(lower, -1).T)

    at = jnp.concatenate([mean, covariance[rows, columns]])
    return _compiled(jax.hessian(by_unique), ("hessian",), (at,))
