"""The text of `Jacobian.explain`: the algorithm for each result, chosen by the same functions as in the computation."""

from __future__ import annotations

from torch import Tensor

from mvnjac import kernels
from mvnjac.fused.batched import FusedBatch, FusedBatchOnDevice
from mvnjac.fused.dense import FusedDense
from mvnjac.kernels import cuda, limits, planner
from mvnjac.missing.incomplete_residuals import IncompleteResiduals
from mvnjac.score.evaluation import Evaluation, GeneralEvaluation
from mvnjac.score.fused_evaluation import FusedEvaluation
from mvnjac.whitening.factor import Factor


def explained(evaluation: Evaluation) -> str:
    """One line per result: the algorithm and the reason."""
    rows, model = evaluation.general.rows, evaluation.general.model
    where = f"{model.mean.device}, {str(model.working).removeprefix('torch.')}"
    head = f"rows {tuple(rows.batch)} of {rows.d} variables, {type(model.covariance).__name__}, {where}"
    body = _by_kernels(evaluation.fused) if isinstance(evaluation, FusedEvaluation) else _general(evaluation.general)
    width = max(len(name) for name in body)
    return "\n".join([head, *(f"  {name:<{width}}  {text}" for name, text in body.items())])


def _by_kernels(fused: FusedDense | FusedBatch) -> dict[str, str]:
    if isinstance(fused, FusedBatchOnDevice):
        return {
            "log_prob, sum": "Triton kernel: each Gaussian factorised in registers, one pass over memory for all results",
            "matrix, others": "plain torch, batched; triangles packed by the Triton kernel",
        }
    name = kernels.native.instructions()
    if isinstance(fused, FusedBatch):
        return {
            "log_prob, sum": f"compiled kernel ({name}): SIMD-batched Cholesky, one matrix per vector lane",
            "matrix, others": "plain torch, batched",
        }
    prepared, d = fused.prepared, fused.prepared.d
    halved = limits.halves_sums(prepared.itemsize, prepared.data, fused.x.shape[0], d)
    return {
        "log_prob": f"compiled kernel ({name}): rows are whitened by L⁻¹ in blocks that stay in the cache",
        "sum": "compiled kernel: Σ r and Σ r rᵀ of centred rows, whitened once, without loss of digits at this conditioning"
        if halved
        else "compiled kernel: Σ z and Σ z zᵀ of whitened rows, transformed to the gradients once",
        "matrix": "compiled kernel: a and its packed outer product are written once per row, without temporaries",
        "gram": "compiled kernel: rows of the matrix in blocks that stay in the cache"
        if limits.kernel_gram(d)
        else _gram(d + d * (d + 1) // 2, prepared.itemsize),
    }


def _general(evaluation: GeneralEvaluation) -> dict[str, str]:
    rows, model = evaluation.rows, evaluation.model
    names = evaluation.model.arguments.default_names()
    size = sum(model.arguments.coordinates(name).size for name in names)
    if rows.is_traced:
        return {"all results": "plain differentiable torch: an autograd graph, a transform or a compiler is active"}
    return {
        "x, mean": _scaled(evaluation),
        "sum": _sum(evaluation, names),
        "matrix": f"triangles {_packing(model.mean)}",
        "gram": _gram(size, model.working.itemsize),
    }


def _packing(mean: Tensor) -> str:
    if cuda.available(mean):
        return "packed by the Triton kernel"
    compiled = kernels.native is not None and mean.is_cpu
    return "packed by the compiled kernel" if compiled else "packed column by column, plain torch"


def _scaled(evaluation: GeneralEvaluation) -> str:
    rows = evaluation.rows
    if isinstance(rows, IncompleteResiduals):
        patternwise = "one structure per pattern of missing entries"
        return f"a from {patternwise if rows.keeps_form else 'dense marginals along chains of nested patterns'}"
    if "scale_tril" not in evaluation.model.covariance.fields and not evaluation.dense_parametrisation:
        return "a = Σ⁻¹r by the solver of the structure"
    n = rows.batch.numel()
    product = planner.multiplies(n, rows.d)
    return f"a = Σ⁻¹r {'as a product with Σ⁻¹' if product else 'by two triangular solves'} (n = {n}, d = {rows.d})"


def _sum(evaluation: GeneralEvaluation, names: list[str]) -> str:
    batches = [evaluation.param_batch(name) for name in names]
    if evaluation.sums_first(names, batches):
        compiled = limits.kernel_sums(evaluation.rows.d) and evaluation.rows.unbatched
        return f"sums of whitened rows first, then d³: by {'the compiled kernel' if compiled else 'BLAS, in chunks'}"
    structured = type(evaluation.rows.factor).squares_and_totals is not Factor.squares_and_totals
    if structured and evaluation.in_one_pass(names, batches):
        return "all parameters in one pass over the rows, by the formulas of the structure"
    return "block by block, in chunks of rows"


def _gram(p: int, itemsize: int) -> str:
    return f"chunks of {planner.rows_in(planner.CHUNK_BYTES, p, itemsize)} rows of {p} columns, one triangle of each product"
