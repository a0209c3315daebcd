"""The dense core against its peers and the floor of the machine, in one run, interleaved, one thread, float64.

    python benchmarks/core.py [--quick]

Prints medians of ratios. Only ratios from one run mean anything on a shared machine: each round times every contestant once, in
turn, and a ratio is taken within the round.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch.func import grad, vmap

import mvnjac

MATRIX = [(1000, 3), (100_000, 10), (10_000, 50), (2000, 200), (200, 1000)]
TOTAL = [(1, 3), (1000, 10), (10_000, 50), (10_000, 200), (2000, 1000), (1, 2000)]


def data(n: int, d: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Well-conditioned: x (n, d), mean (d,), Σ (d, d)."""
    generator = torch.Generator().manual_seed(n + d)
    A = torch.randn(d, 2 * d, generator=generator, dtype=torch.float64)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64)
    return x, torch.zeros(d, dtype=torch.float64), A @ A.mT / (2 * d)


def textbook(x: torch.Tensor, mean: torch.Tensor, covariance: torch.Tensor) -> torch.Tensor:
    """One row's log-density (up to the constant), as a user of torch.func writes it."""
    L = torch.linalg.cholesky(covariance)
    z = torch.linalg.solve_triangular(L, (x - mean).unsqueeze(-1), upper=False)
    return -0.5 * (z * z).sum() - L.diagonal().log().sum()


def by_distributions(x: torch.Tensor, mean: torch.Tensor, covariance: torch.Tensor, validate: bool = True) -> None:
    """The total gradient by torch.distributions and autograd. Ours looks at its numbers, too, so that validation is the fair peer."""
    mean, covariance = mean.clone().requires_grad_(), covariance.clone().requires_grad_()
    torch.distributions.MultivariateNormal(mean, covariance, validate_args=validate).log_prob(x).sum().backward()


def rounds(contestants: dict[str, Callable[[], object]], count: int) -> dict[str, list[float]]:
    """Seconds of each contestant in each round, after one round that is thrown away."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for index in range(count + 1):
        for name, call in contestants.items():
            start = time.perf_counter()
            result = call()
            elapsed = time.perf_counter() - start
            del result
            if index:
                times[name].append(elapsed)
    return times


def report(title: str, times: dict[str, list[float]], ours: str, others: list[str]) -> None:
    ratios = [statistics.median(a / b for a, b in zip(times[ours], times[other], strict=True)) for other in others]
    cells = "  ".join(f"{ratio:8.4f} (1/{1 / ratio:.3g})" for ratio in ratios)
    print(f"{title:>22}  {statistics.median(times[ours]) * 1e3:9.3f} ms  {cells}", flush=True)


def matrix(n: int, d: int, count: int) -> None:
    x, mean, covariance = data(n, d)
    p = d + d * (d + 1) // 2
    out = torch.empty(n, p, dtype=torch.float64)
    per_row = vmap(grad(textbook, argnums=(1, 2)), (0, None, None))
    times = rounds(
        {
            "fresh": lambda: mvnjac.jacobian(x, mean, covariance).matrix(),
            "out": lambda: mvnjac.jacobian(x, mean, covariance).matrix(out=out),
            "vmap(grad)": lambda: per_row(x, mean, covariance),
            "fill fresh": lambda: torch.empty(n, p, dtype=torch.float64).fill_(1.0),
            "fill given": lambda: out.fill_(1.0),
        },
        count,
    )
    report(f"({n}, {d}) fresh", times, "fresh", ["vmap(grad)", "fill fresh"])
    report(f"({n}, {d}) out=", times, "out", ["vmap(grad)", "fill given"])


def total(n: int, d: int, count: int) -> None:
    x, mean, covariance = data(n, d)

    def floor() -> None:
        L = torch.linalg.cholesky(covariance)
        (x @ torch.cholesky_inverse(L)).mT @ x

    times = rounds(
        {
            "sum": lambda: mvnjac.jacobian(x, mean, covariance).sum(),
            "torch.distributions": lambda: by_distributions(x, mean, covariance),
            "unvalidated": lambda: by_distributions(x, mean, covariance, validate=False),
            "floor": floor,
        },
        count,
    )
    report(f"({n}, {d}) sum", times, "sum", ["torch.distributions", "unvalidated", "floor"])


def training_step(n: int, d: int, count: int) -> None:
    """log_prob and backward by mean and Σ, as in a training loop."""
    x, mean, covariance = data(n, d)

    def step() -> None:
        leaves = [t.clone().requires_grad_() for t in (mean, covariance)]
        mvnjac.log_prob(x, *leaves).sum().backward()

    times = rounds(
        {
            "step": step,
            "torch.distributions": lambda: by_distributions(x, mean, covariance),
            "unvalidated": lambda: by_distributions(x, mean, covariance, validate=False),
        },
        count,
    )
    report(f"({n}, {d}) step", times, "step", ["torch.distributions", "unvalidated"])


def rows_by_vmap(n: int, d: int, count: int) -> None:
    """The user's own vmap(grad(...)), with our log_prob and with torch's operations."""
    x, mean, covariance = data(n, d)
    ours = vmap(grad(mvnjac.log_prob, argnums=(1, 2)), (0, None, None))
    theirs = vmap(grad(textbook, argnums=(1, 2)), (0, None, None))
    times = rounds(
        {
            "ours": lambda: ours(x, mean, covariance),
            "theirs": lambda: theirs(x, mean, covariance),
            "fill": lambda: torch.empty(n, d, d, dtype=torch.float64).fill_(1.0),
        },
        count,
    )
    report(f"({n}, {d}) vmap(grad)", times, "ours", ["theirs", "fill"])


def second_order(n: int, d: int, count: int) -> None:
    """The Hessian of the total as a matrix over the unique elements, against torch.func.hessian over vech Σ."""
    x, mean, covariance = data(n, d)
    rows, columns = torch.tril_indices(d, d)

    def total(mean: torch.Tensor, elements: torch.Tensor) -> torch.Tensor:
        lower = torch.zeros(d, d, dtype=mean.dtype).index_put((rows, columns), elements)
        L = torch.linalg.cholesky(lower + lower.tril(-1).mT)
        z = torch.linalg.solve_triangular(L, (x - mean).mT, upper=False)
        return -0.5 * (z * z).sum() - n * L.diagonal().log().sum()

    elements = covariance[rows, columns]
    reverse = torch.func.jacrev(torch.func.jacrev(total, (0, 1)), (0, 1))
    times = rounds(
        {
            "ours": lambda: mvnjac.hessian(x, mean, covariance).matrix(),
            "theirs": lambda: reverse(mean, elements),
        },
        count,
    )
    report(f"({n}, {d}) hessian", times, "ours", ["theirs"])


def natural(n: int, d: int, count: int) -> None:
    """The natural gradient, against the total score and one Cholesky solve with the p×p information where that is feasible."""
    x, mean, covariance = data(n, d)

    def assembled() -> None:
        J = mvnjac.jacobian(x, mean, covariance)
        information = mvnjac.fisher_information(mean, covariance).matrix()
        total = J.rmatvec(torch.ones(n, dtype=torch.float64))
        torch.cholesky_solve(total.unsqueeze(-1), torch.linalg.cholesky(n * information))

    others = {"assembled": assembled} if d <= 50 else {"J.sum()": lambda: mvnjac.jacobian(x, mean, covariance).sum()}
    times = rounds({"ours": lambda: mvnjac.natural_gradient(x, mean, covariance), **others}, count)
    name = "one solve with F" if d <= 50 else "J.sum()"
    report(f"({n}, {d}) against {name}", times, "ours", list(others))


def low_rank(n: int, d: int, k: int, count: int) -> None:
    """Value and total gradient of a factor model: a training step, and `J.log_prob` with `J.sum()`."""
    generator = torch.Generator().manual_seed(k)
    x, W = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((n, d), (d, k)))
    mean, v = torch.zeros(d, dtype=torch.float64), torch.ones(d, dtype=torch.float64)

    def step(density: Callable[..., torch.Tensor]) -> None:
        leaves = [t.clone().requires_grad_() for t in (mean, W, v)]
        density(*leaves).sum().backward()

    def jacobian() -> None:
        J = mvnjac.jacobian(x, mean, mvnjac.LowRank(W, v))
        J.log_prob.sum()
        J.sum()

    def by_torch(validate: bool) -> Callable[..., torch.Tensor]:
        cls = torch.distributions.LowRankMultivariateNormal
        return lambda mean, W, v: cls(mean, W, v, validate_args=validate).log_prob(x)

    def floor() -> None:
        """The residuals, and the products that nothing can avoid: Bᵀu, B ŵ, Aᵀ ŵ and, of W alone, BᵀB and B C⁻¹."""
        u, B = x - mean, W / v.sqrt().unsqueeze(-1)
        w = u @ B
        torch.addmm(u, w, B.mT, alpha=-1, out=u)
        (u.mT @ w, B @ (B.mT @ B))

    others = {
        "unvalidated": lambda: step(by_torch(False)),
        "torch.distributions": lambda: step(by_torch(True)),
        "floor": floor,
    }
    ours = {"step": lambda: step(lambda mean, W, v: mvnjac.log_prob(x, mean, mvnjac.LowRank(W, v))), "J": jacobian}
    times = rounds({**ours, **others}, count)
    for name in ours:
        report(f"({n}, {d}, {k}) {name}", times, name, list(others))


def missing(n: int, d: int, gaps: str, count: int) -> None:
    """Value and total gradient by mean and Σ of rows with gaps, against one Cholesky factorisation a pattern."""
    x, mean, sigma = data(n, d)
    generator = torch.Generator().manual_seed(1)
    if gaps == "drop-out":  # each row is observed up to some variable
        observed = torch.arange(d) < torch.randint(1, d + 1, (n, 1), generator=generator)
    elif gaps == "few patterns":
        kinds = torch.rand(20, d, generator=generator) > 0.1
        observed = kinds[torch.randint(20, (n,), generator=generator)]
    else:
        observed = torch.rand(n, d, generator=generator) > float(gaps)
    holes = x.masked_fill(~observed, torch.nan)
    patterns, of_row = observed.unique(dim=0, return_inverse=True)
    rows = [(of_row == p).nonzero().squeeze(-1) for p in range(len(patterns))]
    indices = [pattern.nonzero().squeeze(-1) for pattern in patterns]

    def ours() -> None:
        J = mvnjac.jacobian(holes, mean, sigma, missing="marginalise")
        J.log_prob.sum()
        J.sum()

    def by_pattern() -> None:
        by_mean, by_matrix, value = torch.zeros_like(mean), torch.zeros_like(sigma), 0.0
        for own, some in zip(indices, rows, strict=True):
            L = torch.linalg.cholesky(sigma[own][:, own])
            r = holes[some][:, own] - mean[own]
            a = torch.cholesky_solve(r.mT, L).mT
            value += float(-0.5 * ((a * r).sum() + len(some) * 2 * L.diagonal().log().sum()))
            by_mean[own] += a.sum(0)
            G = 0.5 * (a.mT @ a - len(some) * torch.cholesky_inverse(L))
            by_matrix[own.unsqueeze(-1), own] += G

    def complete() -> None:
        J = mvnjac.jacobian(x, mean, sigma)
        J.log_prob.sum()
        J.sum()

    times = rounds({"ours": ours, "a Cholesky a pattern": by_pattern, "no gaps": complete}, count)
    report(f"({n}, {d}) {gaps}, {len(patterns)}", times, "ours", ["a Cholesky a pattern", "no gaps"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="only (10 000, 50), three rounds")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    count = 3 if quick else 7
    print(f"torch {torch.__version__}, {torch.get_num_threads()} thread, float64, medians of {count} rounds")
    print(f"{'J.matrix()':>22}  {'time':>12}  against vmap(grad)   against filling the output")
    for n, d in [(10_000, 50)] if quick else MATRIX:
        matrix(n, d, count if n * d * d < 5e7 else 3)
    print(
        f"{'J.sum()':>22}  {'time':>12}  against torch.distributions, the same unvalidated, and factor + inverse + two products"
    )
    for n, d in [(10_000, 50)] if quick else TOTAL:
        total(n, d, 2 * count)
    print(f"{'training step':>22}  {'time':>12}  against torch.distributions, and the same unvalidated")
    for n, d in [(10_000, 50)] if quick else TOTAL:
        training_step(n, d, 2 * count)
    print(f"{'vmap(grad(log_prob))':>22}  {'time':>12}  against the same of torch's operations, and filling the output")
    for n, d in [(10_000, 50)] if quick else MATRIX[:4]:
        rows_by_vmap(n, d, 3)
    print(f"{'H.matrix()':>22}  {'time':>12}  against jacrev(jacrev) by the mean and vech Σ")
    second_order(1000, 20, count)
    print(f"{'natural_gradient':>22}")
    for n, d in [(1000, 50)] if quick else [(1000, 50), (1000, 200)]:
        natural(n, d, count)
    print(
        f"{'low rank (n, d, k)':>22}  {'time':>12}  against LowRankMultivariateNormal unvalidated, validated, and the products alone"
    )
    for n, d, k in [(1000, 1000, 10)] if quick else [(1000, 1000, 10), (100, 20_000, 20)]:
        low_rank(n, d, k, 2 * count)
    print(f"{'gaps, patterns':>22}  {'time':>12}  against one Cholesky factorisation a pattern, and the same rows without gaps")
    for gaps in ["few patterns"] if quick else ["few patterns", "drop-out", "0.02", "0.1"]:
        missing(5000, 50, gaps, count)


if __name__ == "__main__":
    main()
