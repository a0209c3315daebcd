"""Torch's default device and default dtype do not affect any result: results for CPU tensors agree to the last bit.

Every public function and method (`tests/support/public_calls.py`) is called for every structure, with and without missing
entries, in both dtypes, under `torch.device("meta")`, where a tensor created without a device has no values, and under each
default dtype. The long suite runs all combinations, the ordinary suite some of them.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

import mvnjac
from mvnjac.errors import InternalError
from mvnjac.kernels.addresses import address, address_or_zero
from tests.cli.test_cli import run
from tests.support import public_calls
from tests.support.public_calls import CALLS, DENSITIES, ON_TABLES, PLAIN, SHARED, STRUCTURES, Case, leaves


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def default_device(device: str) -> Iterator[None]:
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


AMBIENTS: dict[str, Callable[[], contextlib.AbstractContextManager[Any]]] = {
    "device meta": lambda: torch.device("meta"),
    "default device meta": lambda: default_device("meta"),
    "float64": lambda: default_dtype(torch.float64),
    "float32": lambda: default_dtype(torch.float32),
    "meta and float64": lambda: _both(torch.device("meta"), default_dtype(torch.float64)),
}


@contextlib.contextmanager
def _both(*contexts: contextlib.AbstractContextManager[Any]) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for context in contexts:
            stack.enter_context(context)
        yield


# --- the reported case and similar ones --------------------------------------------------------------------------------


def test_a_covariance_for_each_row() -> None:
    """For Σ = k I and rows at the mean, ∂ log p / ∂Σ₁₁ = −1/(2k)."""
    x = torch.zeros(4, 2, dtype=torch.float64)
    C = torch.stack([k * torch.eye(2, dtype=torch.float64) for k in (1.0, 2.0, 4.0, 8.0)])
    for ambient in AMBIENTS.values():
        for general in (False, True):  # the fused path and the general path
            with ambient():
                found = mvnjac.jacobian(x, x, C).matrix(wrt=("mean", "covariance_matrix") if general else None)[:, 2]
            assert found.tolist() == pytest.approx([-0.5, -0.25, -0.125, -0.0625], rel=1e-14)


def test_addresses_are_given_only_for_cpu_memory() -> None:
    x = torch.zeros(2, 3)
    assert address(x) == address_or_zero(x) == x.data_ptr()
    assert address_or_zero(None) == 0
    with pytest.raises(InternalError, match=r"Tensor of torch\.int64 on meta, of shape \(4,\).*plain tensors in CPU memory"):
        address(torch.arange(4, device="meta"))
    with pytest.raises(InternalError, match="plain tensors in CPU memory"):
        address(torch.func.vmap(lambda row: _with_address(row))(x))
    with pytest.raises(InternalError, match=r"strides \(1, 3\).*contiguous numbers of torch\.float32"):
        address(x.mT, torch.float32)
    with pytest.raises(InternalError, match=r"of torch\.float32 on cpu.*contiguous numbers of torch\.int64"):
        address_or_zero(x, torch.int64)


def _with_address(row: Tensor) -> Tensor:
    address(row)
    return row


# --- every public call ---------------------------------------------------------------------------------------------------


def public_functions() -> Iterator[str]:
    """All public functions, and the classes that users instantiate."""
    for prefix in ("", "inference.", "distributions.", "distributed."):
        home = importlib.import_module(f"mvnjac.{prefix}".rstrip("."))
        for name in dir(home):
            value = getattr(home, name)
            is_defined_here = prefix in ("", "inference.") or getattr(value, "__module__", "") == home.__name__
            if is_defined_here and inspect.isfunction(value) and not name.startswith("_"):
                yield prefix + name
    yield from (
        "Gaussian",
        "distributions.MultivariateNormal",
        "distributions.LowRankMultivariateNormal",
        "sklearn.GaussianModel",
    )


def test_every_public_function_is_called() -> None:
    without_tensors = {"show_config", "use_huge_pages"}
    assert set(public_functions()) - without_tensors <= set(CALLS)


def test_every_result_class_is_examined() -> None:
    classes = {getattr(mvnjac.inference, name) for name in dir(mvnjac.inference)}
    classes |= {getattr(mvnjac, name) for name in dir(mvnjac) if name not in STRUCTURES}
    result_classes = {c for c in classes if inspect.isclass(c) and not issubclass(c, Exception)} - {mvnjac.Covariance}
    assert result_classes <= set(public_calls.ARGUMENTS)


def of_structures(missing: bool) -> Iterator[tuple[str, str]]:
    for structure in ("plain", *STRUCTURES):
        plain_only = PLAIN if structure == "plain" and not missing else {}
        yield from ((structure, name) for name in [*DENSITIES, *SHARED, *plain_only])


#: the combinations that the ordinary suite runs
SOME_STRUCTURES = {"plain", "Kronecker", "LowRank", "Autoregressive"}
SOME_FITS = {"fit", "fit, diagonal", "fit, ar:1", "fit, toeplitz"}
#: (dtype, missing entries) of the ordinary suite and the ambient setting of each
SOME_CASES = {(torch.float32, True): "meta and float64", (torch.float64, False): "device meta"}


def product() -> Iterator[Any]:
    for dtype in (torch.float32, torch.float64):
        for missing in (False, True):
            rows = [*of_structures(missing), *(("table", name) for name in ON_TABLES)]
            for structure, name in rows:
                fits = name.startswith("fit") and name not in SOME_FITS
                ordinary = structure in SOME_STRUCTURES | {"table"} and not fits
                for ambient in AMBIENTS:
                    short = ordinary and SOME_CASES.get((dtype, missing)) == ambient
                    words = f"{structure}-{name}-{str(dtype)[6:]}-{'missing' if missing else 'complete'}-{ambient}"
                    marks = () if short else (pytest.mark.long,)
                    yield pytest.param(structure, name, dtype, missing, ambient, id=words, marks=marks)


def cases(structure: str, name: str, dtype: torch.dtype, missing: bool) -> list[Case]:
    if structure == "table":
        return [public_calls.table(dtype, missing)]
    return [case for case in public_calls.cases(structure, dtype, missing) if name not in SHARED or not case.batch]


@functools.cache
def plainly(structure: str, name: str, dtype: torch.dtype, missing: bool) -> list[dict[str, Any]]:
    """The expected results: with torch's initial defaults."""
    return [dict(leaves(CALLS[name](case))) for case in cases(structure, name, dtype, missing)]


@pytest.mark.parametrize(("structure", "name", "dtype", "missing", "ambient"), list(product()))
@pytest.mark.filterwarnings("ignore")  # warnings are the same with and without the setting
def test_ambient_settings_have_no_effect(structure: str, name: str, dtype: torch.dtype, missing: bool, ambient: str) -> None:
    expected = plainly(structure, name, dtype, missing)
    for case, without in zip(cases(structure, name, dtype, missing), expected, strict=True):
        with AMBIENTS[ambient]():
            found = CALLS[name](case)
        actual = dict(leaves(found))
        assert actual.keys() == without.keys()
        assert [key for key in without if actual[key] != without[key]] == []


def test_the_comparison_detects_a_difference_of_one_bit() -> None:
    x = torch.tensor([1.0, torch.nan])
    same = dict(leaves({"a": [x.clone(), 2.0, "word"]}))
    assert same == dict(leaves({"a": [x, 2.0, "word"]}))
    assert same != dict(leaves({"a": [x.nextafter(torch.full_like(x, 2)), 2.0, "word"]}))
    assert same != dict(leaves({"a": [x.double(), 2.0, "word"]}))
    assert same != dict(leaves({"a": [x.to("meta"), 2.0, "word"]}))


def test_most_calls_return_values() -> None:
    """Errors are compared as well, but at most a tenth of the results may be errors."""
    for name in CALLS:
        structure = "table" if name in ON_TABLES else "plain"
        values = plainly(structure, name, torch.float64, False)[0].values()
        refused = [v for v in values if isinstance(v, str) and "mvnjac.errors." in v]
        assert len(refused) * 10 <= len(values), (name, refused)


def _content(path: Path) -> Any:
    """The content of a file; for a model regardless of the order of its fields, which safetensors does not fix."""
    if path.suffix != ".safetensors":
        return path.read_bytes()
    with safe_open(path, "pt", device="cpu") as model:
        return dict(leaves({"": dict(model.metadata()), **{key: model.get_tensor(key) for key in sorted(model.keys())}}))


# --- the command line ----------------------------------------------------------------------------------------------------

COMMANDS = {
    "jacobian": ("jacobian", "table.csv", "-o", "scores.csv"),
    "low rank": ("jacobian", "table.csv", "--structure", "low-rank:1", "-o", "scores.csv"),
    "gaps": ("jacobian", "gaps.csv", "--missing", "marginalise", "-o", "scores.csv"),
    "score": ("score", "gaps.csv", "--missing", "marginalise", "-o", "totals.csv"),
    "fit": ("fit", "table.csv", "--structure", "ar:1", "-o", "model.safetensors"),
    "report": ("report", "table.csv", "-o", "report.html"),
    "report of gaps": ("report", "gaps.csv", "--missing", "marginalise", "-o", "report.html"),
}


@pytest.mark.parametrize("ambient", ["default device meta", pytest.param("float64", marks=pytest.mark.long)])
@pytest.mark.parametrize("command", COMMANDS)
def test_ambient_settings_do_not_affect_commands(
    command: str, ambient: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written = []
    for context in (contextlib.nullcontext, AMBIENTS[ambient]):
        folder = tmp_path / "run"  # always the same name, since outputs may contain it
        folder.mkdir()
        monkeypatch.chdir(folder)
        for name, missing in (("table.csv", False), ("gaps.csv", True)):
            rows = public_calls.table(torch.float64, missing).x.tolist()
            lines = [",".join("" if v != v else repr(v) for v in row) for row in rows]
            (folder / name).write_text("a,b,c\n" + "\n".join(lines) + "\n")
        with context():
            code, out, err = run(*COMMANDS[command], capsys=capsys)
        assert code == 0, err
        files = {str(p.relative_to(folder)): _content(p) for p in sorted(folder.rglob("*")) if p.is_file()}
        assert len(files) > 2
        written.append((out, files))
        shutil.rmtree(folder)
    assert written[0] == written[1]
