"""What `Jacobian.explain` says: how results will be formed, decided by the same functions that then form them."""

from __future__ import annotations

from torch import Tensor

from mvnjac import kernels
from mvnjac.fused.batched import FusedBatch, FusedBatchOnDevice
from mvnjac.fused.dense import FusedDense
from mvnjac.kernels import cuda, limits, planner
from mvnjac.missing.incomplete_residuals import IncompleteResiduals
from mvnjac.score.evaluation import Derivatives
from mvnjac.whitening.factor import Factor


def explained(quick: FusedDense | FusedBatch | None, derivatives: Derivatives) -> str:
    """A line a result: what it is formed by, and why."""
    rows, model = derivatives.rows, derivatives.model
    where = f"{model.mean.device}, {str(model.working).removeprefix('torch.')}"
    head = f"rows {tuple(rows.batch)} of {rows.d} variables, {type(model.covariance).__name__}, {where}"
    body = _by_kernels(quick) if quick is not None else _general(derivatives)
    width = max(len(name) for name in body)
    return "\n".join([head, *(f"  {name:<{width}}  {text}" for name, text in body.items())])


def _by_kernels(quick: FusedDense | FusedBatch) -> dict[str, str]:
    if isinstance(quick, FusedBatchOnDevice):
        return {
            "log_prob, sum": "Triton kernel: each Gaussian factorised in registers, one pass over the memory for all results",
            "matrix, others": "plain torch, batched; triangles packed by the Triton kernel",
        }
    name = kernels.native.instructions()
    if isinstance(quick, FusedBatch):
        return {
            "everything": f"compiled kernel ({name}): as many Gaussians at a time as a vector has lanes, factorised in step",
            "matrix, others": "plain torch, batched",
        }
    prepared, d = quick.prepared, quick.prepared.d
    halved = limits.halves_sums(prepared.itemsize, prepared.data, quick.x.shape[0], d)
    return {
        "log_prob": f"compiled kernel ({name}): rows whitened by L⁻¹ in blocks that stay in the cache",
        "sum": "Σ r and Σ r rᵀ of centred rows, whitened once: that costs no digits at this conditioning"
        if halved
        else "the same; Σ z and Σ z zᵀ of whitened rows, brought to the mean and Σ once",
        "matrix": "whitened rows; each row's a and its packed outer product written once, without temporaries",
        "gram": "the same; rows of the matrix in blocks that stay in the cache"
        if limits.kernel_gram(d)
        else _gram(d + d * (d + 1) // 2, prepared.itemsize),
    }


def _general(derivatives: Derivatives) -> dict[str, str]:
    rows, model = derivatives.rows, derivatives.model
    names = derivatives.model.default_names()
    size = sum(model.coordinates(name).size for name in names)
    if rows.is_traced:
        why = "plain differentiable torch: a graph, a transform or a compiler watches"
        return {"everything": why}
    result = {"x, mean": _scaled(derivatives), "sum": _sum(derivatives, names)}
    result["matrix"] = f"triangles {_packing(model.mean)}"
    result["gram"] = _gram(size, model.working.itemsize)
    return result


def _packing(mean: Tensor) -> str:
    if cuda.available(mean):
        return "packed by the Triton kernel"
    packs = kernels.native is not None and mean.is_cpu
    return "packed by the compiled kernel" if packs else "column by column, plain torch"


def _scaled(derivatives: Derivatives) -> str:
    rows = derivatives.rows
    if isinstance(rows, IncompleteResiduals):
        form = (
            "a structure a pattern of missing entries" if rows.keeps_form else "dense marginals along chains of nested patterns"
        )
        return f"a by {form}"
    if "scale_tril" not in derivatives.model.covariance.fields and not derivatives.dense_parametrisation:
        return "a = Σ⁻¹r by the structure's own solve"
    n = rows.batch.numel()
    product = planner.multiplies(n, rows.d)
    return f"a = Σ⁻¹r {'as a product with Σ⁻¹' if product else 'by two triangular solves'} (n = {n}, d = {rows.d})"


def _sum(derivatives: Derivatives, names: list[str]) -> str:
    owns = [derivatives.own_batch(name) for name in names]
    if derivatives.sums_first(names, owns):
        by = (
            "the compiled kernel"
            if limits.kernel_sums(derivatives.rows.d) and derivatives.rows.everyday
            else "torch's BLAS, in chunks"
        )
        return f"sums of whitened rows first, then d³: by {by}"
    own_way = type(derivatives.rows.factor).squares_and_totals is not Factor.squares_and_totals
    if own_way and derivatives.in_one_pass(names, owns):
        return "all parameters from one pass over the rows, in the structure's own way"
    return "block by block, a chunk of rows at a time"


def _gram(p: int, itemsize: int) -> str:
    return f"chunks of {planner.rows_in(planner.CHUNK_BYTES, p, itemsize)} rows of {p} columns, half of each product"
