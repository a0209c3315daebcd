"""Insufficient memory gives a one-sentence error, before allocating or after a failed allocation."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from mvnjac.engines import job as units
from mvnjac.engines.local import Local
from mvnjac.errors import ArgumentError, MemoryLimitError
from mvnjac.tables.slices import Slice
from mvnjac.tensors import allocation

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tests" / "support" / "under_limit.py"
LINUX = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="the limit is set beside what /proc message is in use"
)


def limited(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True, cwd=ROOT, timeout=300)


@pytest.mark.slow
@LINUX
def test_calls_that_need_too_much_memory_raise_a_one_sentence_error() -> None:
    done = limited("library")
    assert done.returncode == 0, done.stderr[-2000:]
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [how for how, *_ in answers] == ["refuses"] * 17 + ["fails"] * 17
    for how, name, kind, message, cause in answers:
        assert kind == "MemoryLimitError", (how, name, kind, message)
        assert message.startswith(name.split()[0].split("[")[0]), (how, name, message)
        assert message.endswith("."), (how, name, message)
        assert "\n" not in message, (how, name, message)
        if how == "refuses":
            assert "B are needed, but cpu has" in message, (name, message)
            assert "RLIMIT_AS" in message, (name, message)
            assert "RuntimeError" not in cause, (name, cause)
        else:
            assert "MB failed: not enough memory is available; " in message, (name, message)
            assert "can't allocate memory" in cause, (name, cause)


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tables")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3000, 40))
    np.save(folder / "tall.npy", x)
    np.save(folder / "wide.npy", rng.normal(size=(400, 150)))
    gaps = x.copy()
    gaps[rng.random(x.shape) < 0.1] = np.nan
    np.save(folder / "gaps.npy", gaps)
    return folder


@pytest.mark.slow
@LINUX
@pytest.mark.parametrize(
    ("command", "options", "beyond", "message"),
    [
        ("jacobian", ["wide.npy", "-o", "out.parquet"], 1.1e8, r"11,475 columns of scores"),
        pytest.param("jacobian", ["wide.npy", "-o", "out.csv", "--gram"], 2e8, r"gram: 11475 × 11475", marks=pytest.mark.long),
        ("report", ["tall.npy", "-o", "out.html"], 1e8, "for 3,000 rows and 860 parameters"),
        ("score", ["gaps.npy", "--missing", "marginalise", "-o", "out.csv"], 4e7, ""),
        pytest.param("fit", ["gaps.npy", "--missing", "marginalise", "-o", "out.safetensors"], 4e7, "", marks=pytest.mark.long),
        pytest.param("jacobian", ["gaps.npy", "--missing", "marginalise", "-o", "parts"], 4e7, "", marks=pytest.mark.long),
    ],
)
def test_a_command_prints_one_sentence_and_leaves_no_files(
    tables: Path, tmp_path: Path, command: str, options: list[str], beyond: float, message: str
) -> None:
    data, *rest = options
    rest = [str(tmp_path / word) if word.startswith(("out.", "parts")) else word for word in rest]
    done = limited("command", str(beyond), command, str(tables / data), *rest)
    assert done.returncode == 1, done.stderr[-2000:]
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr[-2000:]
    assert lines[0].startswith("mvnjac: ")
    assert lines[0].endswith(".")
    assert message in lines[0]
    assert "Traceback" not in done.stderr
    assert [
        path for path in tmp_path.rglob("*") if path.is_file() and "manifest" not in path.name and "lock" not in path.name
    ] == []


@LINUX
def test_too_little_memory_to_load_torch() -> None:
    """With a small `ulimit -v` the dynamic linker fails to load torch, and Python raises an ImportError."""
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (400_000_000, -1)); import sys; sys.argv = ['mvnjac', 'fit', "
    )
    code += "'x.npy', '-o', 'x.safetensors']; from mvnjac.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert done.stderr.startswith("mvnjac: fit: an allocation failed: ")
    assert len(done.stderr.splitlines()) == 1


# --- which errors are about memory ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "size"),
    [
        (lambda: torch.empty(2**45), " of 141 TB"),
        (lambda: torch.empty(2**62, 2**62), ""),
        (lambda: np.empty(2**45), " of 281 TB"),
        (lambda: pa.allocate_buffer(2**50), r" of 1.13e\+03 TB"),
        (lambda: bytearray(2**50), ""),
    ],
)
def test_failed_allocations_of_each_library(call, size: str) -> None:
    with pytest.raises(MemoryLimitError, match=f"^f of 3: an allocation{size} failed: .*; less$"):
        allocation.guarded("f of {0}", "less")(lambda number: call())(3)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has …"),
        RuntimeError("std::bad_alloc"),
        OSError(12, "Cannot allocate memory"),
        RuntimeError("can't start new thread"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
    ],
)
def test_out_of_memory_messages(error: Exception) -> None:
    assert isinstance(allocation.refusal(error, "f", "less."), MemoryLimitError)


@pytest.mark.parametrize(
    "error", [RuntimeError("shapes differ"), ArgumentError("out of memory"), OSError(2, "no"), KeyError("x")]
)
def test_other_errors_are_unchanged(error: Exception) -> None:
    assert allocation.refusal(error, "f", "less.") is None

    def fails() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        allocation.guarded("f", "less.")(fails)()
    assert caught.value is error


def test_the_error_names_the_function_that_was_called() -> None:
    @allocation.guarded("inner", "inner remedy.")
    def fails() -> torch.Tensor:
        return torch.empty(2**45)

    @allocation.guarded("inner", "inner remedy.")
    def refuses() -> None:
        raise MemoryLimitError("inner: too much; take less.")

    with pytest.raises(MemoryLimitError, match=r"^outer: an allocation of 141 TB failed: .*; outer remedy\.$"):
        allocation.guarded("outer", "outer remedy.")(fails)()
    outer = allocation.guarded("outer", "outer remedy.")(refuses)
    with pytest.raises(MemoryLimitError, match=r"^first: outer: inner: too much; take less\.$"):
        allocation.guarded("first", "")(outer)()


# --- workers -------------------------------------------------------------------------------------------------------------


class AllocatingJob(units.Job):
    """A job that fails to allocate memory."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def run(self, unit: units.Unit, on_rows) -> units.Result:
        if self.kind == "torch":
            import torch as inside

            inside.empty(2**45)
        elif self.kind == "numpy":
            np.empty(2**45)
        return units.Result(unit.number, 1, Unsendable())


class Unsendable:
    """A result that cannot be pickled for lack of memory."""

    def __reduce__(self):
        raise MemoryError


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["torch", pytest.param("numpy", marks=pytest.mark.long), "pickle"])
def test_workers_report_failed_allocations(kind: str) -> None:
    places = [units.Unit(i, Slice(f"table{i}.npy", rows=5)) for i in range(2)]
    with pytest.raises(MemoryLimitError, match=r"^table\d\.npy, rows 1 to 5: an allocation.* failed: ") as caught:
        list(Local(2).results(AllocatingJob(kind), places, lambda rows: None))
    assert pickle.loads(pickle.dumps(caught.value)).args == caught.value.args


def test_a_worker_that_ray_ends_for_lack_of_memory() -> None:
    ray = pytest.importorskip("ray")
    from mvnjac.engines.ray import _result

    class Fails:
        exceptions = ray.exceptions

        @staticmethod
        def get(reference: object) -> None:
            raise ray.exceptions.OutOfMemoryError("Task was killed due to the node running low on memory.")

    with pytest.raises(
        MemoryLimitError, match=r"table\.npy: Ray ended its worker 6 times, because the node had too little memory"
    ):
        _result(Fails, None, units.Unit(0, Slice("table.npy", row=None)))
