"""The workloads and their targets, which are for float64 and one thread."""

from __future__ import annotations

from functools import partial

from benchmarks import data
from benchmarks.implementations import commands, jax_jit, lower_bounds, ours, torch_autograd, torch_distributions, torch_func
from benchmarks.workload import Entry, Implementation, Prepare, Target, Workload

AUTOGRAD, FUNC, JAX = "torch autograd", "torch.func", "JAX"
DISTRIBUTIONS, UNVALIDATED = "torch.distributions", "torch.distributions, unvalidated"
FRESH, GIVEN = "fill_, fresh memory", "fill_, given memory"
_TABLE_PRODUCT = "torch: one product of the table of patterns with itself"
TORCH_BOUND, BLAS_BOUND = "torch: potrf, potri, two gemms", "OpenBLAS: potrf, potri, one syrk"


def _entry(name: str, prepare: Prepare, *targets: Target, peak_mb: float | None = None) -> Entry:
    return Entry(Implementation(name, prepare), targets, peak_mb)


# (n, d): targets of fresh and out= against vmap(grad), against JAX, and against fill_
_MATRIX = {
    (1000, 3): (1 / 40, 1 / 40, 1 / 5, 1 / 5, None, None),
    (100_000, 10): (1 / 40, 1 / 110, 1 / 7, 1 / 18, None, None),
    (10_000, 50): (1 / 50, 1 / 200, 1 / 7, 1 / 30, 1.35, None),
    (2000, 200): (1 / 75, 1 / 300, 1 / 8, 1 / 40, 1.35, 2.2),
    (200, 1000): (1 / 150, 1 / 450, 1 / 10, 1 / 30, None, None),
}


def _targets(**against: float | None) -> tuple[Target, ...]:
    names = {"func": FUNC, "jax": JAX, "fresh": FRESH, "given": GIVEN}
    return tuple(Target(names[name], ratio) for name, ratio in against.items() if ratio is not None)


def matrix(n: int, d: int) -> Workload:
    fresh_func, out_func, fresh_jax, out_jax, fresh, given = _MATRIX[n, d]
    by_vmap = (_entry("vmap(grad(mvnjac.log_prob))", ours.rows_by_vmap),) if d < 1000 else ()  # needs 1.6 GB for larger d
    return Workload(
        group="J.matrix()",
        size=f"({n}, {d})",
        data=partial(data.shared, n, d),
        tiny=partial(data.shared, 7, 3),
        ours=(
            _entry("fresh", ours.matrix, *_targets(func=fresh_func, jax=fresh_jax, fresh=fresh)),
            _entry("out=", ours.matrix_out, *_targets(func=out_func, jax=out_jax, given=given)),
            *by_vmap,
        ),
        lower_bounds=(Implementation(FRESH, lower_bounds.fill_fresh), Implementation(GIVEN, lower_bounds.fill_given)),
        peers=(Implementation(FUNC, torch_func.matrix), Implementation(JAX, jax_jit.matrix)),
        quick=d in (3, 50),
    )


_TOTAL = {
    (1, 3): Target(AUTOGRAD, 1 / 15),
    (1000, 10): Target(AUTOGRAD, 1 / 15),
    (10_000, 50): Target(AUTOGRAD, 1 / 8),
    (10_000, 200): Target(TORCH_BOUND, 1.1),
    (2000, 1000): Target(TORCH_BOUND, 1.5),
    (1, 2000): Target(TORCH_BOUND, 1.1),
}


def total(n: int, d: int) -> Workload:
    return Workload(
        group="total and gradient",
        size=f"({n}, {d})",
        data=partial(data.shared, n, d),
        tiny=partial(data.shared, 7, 3),
        ours=(
            _entry("J.sum()", ours.total, _TOTAL[n, d]),
            _entry("J.log_prob, J.sum()", ours.value_and_total),
            _entry("prepared mvnjac.Gaussian", ours.prepared_total),
            _entry("training step: log_prob, backward", ours.training_step),
        ),
        lower_bounds=(
            Implementation(TORCH_BOUND, lower_bounds.torch_products),
            Implementation(BLAS_BOUND, lower_bounds.openblas_products),
        ),
        peers=(
            Implementation(AUTOGRAD, torch_autograd.total),
            Implementation(DISTRIBUTIONS, torch_distributions.total),
            Implementation(UNVALIDATED, torch_distributions.total_unvalidated),
            Implementation(FUNC, torch_func.total),
            Implementation(JAX, jax_jit.total),
        ),
        quick=n * d <= 500_000 and d < 2000,
    )


def one_per_row(n: int, d: int, autograd: float, jax: float) -> Workload:
    return Workload(
        group="one Gaussian per row",
        size=f"{n} of d = {d}",
        data=partial(data.one_per_row, n, d),
        tiny=partial(data.one_per_row, 7, 3),
        ours=(_entry("J.log_prob, J.sum()", ours.one_per_row, Target(AUTOGRAD, autograd), Target(JAX, jax)),),
        lower_bounds=(Implementation("copy of the operands", lower_bounds.copy),),
        peers=(
            Implementation(AUTOGRAD, torch_autograd.one_per_row),
            Implementation(DISTRIBUTIONS, torch_distributions.one_per_row),
            Implementation(UNVALIDATED, torch_distributions.one_per_row_unvalidated),
            Implementation(FUNC, torch_func.one_per_row),
            Implementation(JAX, jax_jit.one_per_row),
        ),
        quick=d == 10,
    )


def small_call(n: int, d: int) -> Workload:
    return Workload(
        group="small calls: log_prob",
        size=f"({n}, {d})",
        data=partial(data.shared, n, d),
        tiny=partial(data.shared, 7, 3),
        ours=(_entry("mvnjac.log_prob", ours.log_prob), _entry("prepared mvnjac.Gaussian", ours.prepared_log_prob)),
        peers=(
            Implementation(DISTRIBUTIONS, torch_distributions.log_prob),
            Implementation(UNVALIDATED, torch_distributions.log_prob_unvalidated),
            Implementation("prepared, unvalidated", torch_distributions.prepared_log_prob),
            Implementation(JAX, jax_jit.log_prob),
        ),
        quick=n == 1,
    )


def gram(n: int, d: int) -> Workload:
    syrk = "OpenBLAS: one syrk on the ready matrix"
    return Workload(
        group="J.gram()",
        size=f"({n}, {d})",
        data=partial(data.shared, n, d),
        tiny=partial(data.shared, 7, 3),
        ours=(_entry("J.gram()", ours.gram, Target(FUNC, 1 / 8), Target(syrk, 1.7), peak_mb=100),),
        lower_bounds=(Implementation(syrk, lower_bounds.syrk),),
        peers=(Implementation(FUNC, torch_func.gram), Implementation(JAX, jax_jit.gram)),
        quick=True,
    )


def hessian(n: int, d: int, ratio: float) -> Workload:
    peers = (
        Implementation("torch.func.hessian", torch_func.hessian),
        Implementation("torch.func, jacrev(jacrev)", torch_func.hessian_reverse),
        Implementation("torch.autograd.functional", torch_autograd.hessian),
        Implementation(JAX, jax_jit.hessian),
    )
    return Workload(
        group="hessian(...).matrix()",
        size=f"({n}, {d})",
        data=partial(data.shared, n, d),
        tiny=partial(data.shared, 7, 3),
        ours=(_entry("hessian(...).matrix()", ours.hessian, *(Target(peer.name, ratio) for peer in peers)),),
        peers=peers,
        quick=d == 10,
    )


def natural_gradient(n: int, d: int) -> Workload:
    gemms = "two d×d gemms"
    feasible = d <= 50  # the information is p×p
    targets = () if n > d else (Target(gemms, 1.5),)  # for many rows, the sum of r rᵀ alone costs more
    return Workload(
        group="natural gradient",
        size=f"({n}, {d})",
        data=partial(data.shared, n, d),
        tiny=partial(data.shared, 7, 3),
        ours=(_entry("natural_gradient", ours.natural_gradient, *targets),),
        lower_bounds=(Implementation(gemms, lower_bounds.two_gemms),),
        peers=(Implementation("torch autograd, one solve with F", torch_autograd.natural_gradient),) if feasible else (),
        quick=feasible,
    )


def low_rank(n: int, d: int, k: int, ratio: float) -> Workload:
    target = Target(UNVALIDATED, ratio)
    return Workload(
        group="LowRank, total and gradient",
        size=f"({n}, {d}, k = {k})",
        data=partial(data.low_rank, n, d, k),
        tiny=partial(data.low_rank, 7, 5, 2),
        ours=(
            _entry("J.log_prob, J.sum()", ours.low_rank, target),
            _entry("training step: log_prob, backward", ours.low_rank_step, target),
        ),
        lower_bounds=(Implementation("the matrix products only", lower_bounds.low_rank_products),),
        peers=(
            Implementation(DISTRIBUTIONS, torch_distributions.low_rank),
            Implementation(UNVALIDATED, torch_distributions.low_rank_unvalidated),
            Implementation(JAX, jax_jit.low_rank),
        ),
        quick=k == 10,
    )


def missing(n: int, d: int, gaps: str) -> Workload:
    return Workload(
        group="missing entries, total and gradient",
        size=f"({n}, {d}), {gaps}",
        data=partial(data.with_gaps, n, d, gaps),
        tiny=partial(data.with_gaps, 9, 3, gaps),
        ours=(_entry("J.log_prob, J.sum()", ours.missing),),
        lower_bounds=(Implementation("the same rows without missing entries", ours.without_gaps),),
        peers=(Implementation("torch, one Cholesky factor per pattern", torch_autograd.missing),),
        quick=gaps == "few patterns",
    )


def information(n: int, d: int, late: int, gaps: float, name: str, prepare: Prepare) -> Workload:
    """The information matrix of mean and Σ for rows with many patterns of missing entries."""
    return Workload(
        group="information matrices with missing entries",
        size=f"{name}, ({n}, {d}), {late} late starters, {gaps:g}",
        data=partial(data.table, n, d, late, gaps),
        tiny=partial(data.table, 60, 4, 1, 0.05),
        ours=(_entry(name, prepare, Target(_TABLE_PRODUCT, 3), peak_mb=400),),
        lower_bounds=(Implementation(_TABLE_PRODUCT, lower_bounds.product_of_patterns),),
    )


def commands_with_gaps(n: int, d: int, late: int, gaps: float) -> Workload:
    bound = "fit, and one information's matrix"
    return Workload(
        group="commands on a table with missing entries",
        size=f"({n}, {d}), {late} late starters, {gaps:g}",
        data=partial(data.table, n, d, late, gaps),
        tiny=partial(data.table, 60, 4, 1, 0.05),
        ours=(
            _entry("mvnjac score", commands.score, Target(bound, 2), peak_mb=1050),
            _entry("mvnjac report", commands.report, Target(bound, 4), peak_mb=1050),
        ),
        lower_bounds=(Implementation(bound, commands.fit_and_information),),
        once=True,
    )


def two_threads(n: int, d: int, task: str) -> Workload:
    """mvnjac with two threads and with one. Writing the matrix is limited by memory, so the target is the gain of fill_."""
    one, fill = "1 thread", ("fill_, 2 threads", "fill_, 1 thread")
    prepare, target = {
        "J.sum()": (ours.total, 1 / 1.6),
        "J.matrix()": (ours.matrix, fill),
        "J.matrix(out=)": (ours.matrix_out, fill),
    }[task]
    filling = lower_bounds.fill_given if "out=" in task else lower_bounds.fill_fresh
    is_matrix = task != "J.sum()"
    return Workload(
        group="2 threads against 1",
        size=f"{task} ({n}, {d})",
        data=partial(data.shared, n, d),
        tiny=partial(data.shared, 7, 3),
        ours=(Entry(Implementation("2 threads", prepare, threads=2), (Target(one, target),)),),
        lower_bounds=tuple(Implementation(name, filling, threads=2 - i) for i, name in enumerate(fill)) if is_matrix else (),
        peers=(Implementation(one, prepare, threads=1),),
        once=True,
    )


def float32(n: int, d: int, task: str) -> Workload:
    prepare = {"J.sum()": ours.total, "J.matrix(out=)": ours.matrix_out, "J.log_prob, J.sum()": ours.one_per_row}[task]
    make = data.one_per_row if prepare is ours.one_per_row else data.shared
    return Workload(
        group="float32 against float64",
        size=f"{task} ({n}, {d})",
        data=partial(make, n, d),
        tiny=partial(make, 7, 3),
        ours=(Entry(Implementation("float32", prepare, dtype="float32"), (Target("float64", 1.0),)),),
        peers=(Implementation("float64", prepare, dtype="float64"),),
        once=True,
    )


_TABLES = ((2610, 60, 30, 0.02), (5000, 50, 0, 0.1))
_INFORMATIONS = (("observed", ours.hessian_with_gaps), ("expected", ours.information_with_gaps))
_GAPS = ("few patterns", "drop-out", "0.02", "0.1")

WORKLOADS: tuple[Workload, ...] = (
    *(matrix(n, d) for n, d in _MATRIX),
    *(total(n, d) for n, d in _TOTAL),
    one_per_row(100_000, 3, 1 / 40, 1 / 25),
    one_per_row(10_000, 10, 1 / 12, 1 / 10),
    one_per_row(1000, 50, 1 / 15, 1 / 15),
    gram(10_000, 20),
    hessian(1000, 10, 1 / 40),
    hessian(1000, 20, 1 / 80),
    *(natural_gradient(n, d) for n, d in ((1000, 50), (1, 200), (200, 200), (1000, 200))),
    low_rank(1000, 1000, 10, 1 / 3),
    low_rank(100, 20_000, 20, 1 / 2.3),
    *(missing(5000, 50, gaps) for gaps in _GAPS),
    *(information(*size, *which) for size in _TABLES for which in _INFORMATIONS),
    *(commands_with_gaps(*size) for size in _TABLES),
    *(small_call(n, 3) for n in (1, 1000)),
    *(float32(n, d, "J.sum()") for n, d in _TOTAL),
    *(float32(n, d, "J.matrix(out=)") for n, d in _MATRIX),
    *(float32(n, d, "J.log_prob, J.sum()") for n, d in ((100_000, 3), (10_000, 10), (1000, 50))),
    two_threads(10_000, 200, "J.sum()"),
    *(two_threads(n, d, task) for task in ("J.matrix()", "J.matrix(out=)") for n, d in ((10_000, 50), (2000, 200))),
)
