"""Mutation testing of the formulas: change one sign or factor at a time; the tests of the formula must fail for each change.

    python tools/mutate.py [structure file names …]

A mutant that survives is a formula that no test covers. The package is copied into a temporary folder, one file is changed, and the
tests run against the copy: the contract test, or the tests of second order for their formulas.
"""

from __future__ import annotations

import ast
import concurrent.futures
import copy
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "mvnjac"
#: the folders with the formulas of structures and their linear algebra
FOLDERS = [PACKAGE / "covariance" / "parametrisations", PACKAGE / "covariance" / "structured", PACKAGE / "linalg"]
#: the functions with formulas; the rest of a structure file is argument handling, samples and messages
FIRST_ORDER = {
    "factor", "pullback", "value", "dense", "log_det", "whiten", "reverse_whiten", "unwhiten", "solve", "_split",
    "_scale_tril", "along", "across", "squares", "both_squares", "squares_and_totals", "_eigenvalues", "covariance_matrix",
    "inverse_lags", "info", "schur", "next_order", "innovations", "toeplitz", "toeplitz_times", "inverse_times", "newton",
    "autocorrelation", "weighted_lags", "half_at_first", "spectrum", "signal", "_length",
}  # fmt: skip
SECOND_ORDER = {
    "differential", "adjoint", "second_differential", "inverse_differential", "inverse_adjoint", "mean_differential",
    "mean_adjoint", "fisher", "fisher_solve", "times", "precision_times", "minimum_norm", "units", "second", "tangents",
    "inverse_lags_change",
}  # fmt: skip
#: the functions with formulas of banded matrices, which are in separate files
BANDED = {
    "of", "root_times", "inverse_bands", "_blocks", "_unblocked", "_window", "_neighbours", "_interleaved", "_local", "units",
    "banded_product", "dense_matrix", "consecutive_blocks", "bands_of_sum", "_twice_below", "_halved_below", "_completed",
    "without", "autoregressive_bands", "_require_stationary", "_rank", "_indices", "positions", "free", "variables",
}  # fmt: skip
TESTS = {
    "first": ["tests/covariance/test_contract.py", "tests/covariance/test_parametric.py", "tests/covariance/test_kronecker.py"],
    "second": [
        *("tests/information/test_information.py", "tests/covariance/test_low_rank.py", "tests/covariance/test_parametric.py"),
        *("tests/covariance/test_kronecker.py", "tests/covariance/test_block_diagonal.py"),
    ],
}
#: the tests of a file that has no tests of the same name
TEST_NAMES = {
    **dict.fromkeys(("ar_precision", "bands", "banded", "banded_factor", "cyclic_reduction"), "banded_precision"),
    **{"low_rank_factor": "low_rank", "kronecker_factor": "kronecker", "block_factor": "block_diagonal"},
}
#: general linear algebra, which is not mutated
EXCLUDED = ("triangular", "symmetric_products", "solvers", "scipy_operator", "padding")
SWAPS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult}


def mutants(tree: ast.Module) -> Iterator[tuple[str, str, ast.Module]]:
    """(description, order, changed tree) for each sign and each factor in a formula."""
    for index, node in enumerate(ast.walk(tree)):
        if not isinstance(node, ast.FunctionDef) or node.name not in FIRST_ORDER | SECOND_ORDER | BANDED:
            continue
        for inner, part in enumerate(ast.walk(node)):
            for label, change in changes(part):
                mutant = copy.deepcopy(tree)
                function = next(n for i, n in enumerate(ast.walk(mutant)) if i == index)
                target = next(n for i, n in enumerate(ast.walk(function)) if i == inner)
                change(target)
                order = "second" if node.name in SECOND_ORDER else "first"
                yield f"line {part.lineno}, {node.name}: {label}", order, ast.fix_missing_locations(mutant)


def changes(node: ast.AST) -> Iterator[tuple[str, object]]:
    """The changes of one node. Only operands of arithmetic are changed, not integers that are axes or shapes."""
    if isinstance(node, ast.BinOp) and type(node.op) in SWAPS:
        swapped = SWAPS[type(node.op)]
        yield f"{ast.unparse(node)!r}: {type(node.op).__name__} → {swapped.__name__}", lambda n: setattr(n, "op", swapped())
        for side in ("left", "right"):
            if isinstance(getattr(node, side), ast.Constant):
                yield f"{ast.unparse(node)!r}: constant doubled", lambda n, s=side: double(getattr(n, s))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and not _integer(node.operand):
        yield f"{ast.unparse(node)!r}: sign", lambda n: setattr(n, "op", ast.UAdd())
    returned = isinstance(node, ast.Return) and isinstance(node.value, ast.BinOp | ast.Attribute)
    if returned or (isinstance(node, ast.keyword) and node.arg == "coefficient"):
        yield f"{ast.unparse(node)!r}: doubled", lambda n: setattr(n, "value", ast.BinOp(ast.Constant(2), ast.Mult(), n.value))


def double(constant: ast.Constant) -> None:
    constant.value = 2 * constant.value


def _integer(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, int)


def survives(file: Path, order: str, mutant: ast.Module) -> bool:
    """Whether the tests pass although the file was changed."""
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "mvnjac"
        shutil.copytree(ROOT / "src" / "mvnjac", package, ignore=shutil.ignore_patterns("__pycache__"))
        (package / file.relative_to(PACKAGE)).write_text(ast.unparse(mutant))
        environment = {**os.environ, "PYTHONPATH": folder, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        check = f"import mvnjac; assert mvnjac.__file__.startswith({folder!r}), mvnjac.__file__"
        subprocess.run([sys.executable, "-c", check], env=environment, check=True, cwd=ROOT)
        name = TEST_NAMES.get(file.stem, file.stem.removesuffix("_algebra"))
        of_file = ROOT / "tests" / "covariance" / f"test_{name}.py"
        tests = [*([str(of_file)] if of_file.exists() else []), *TESTS[order]]
        command = [sys.executable, "-m", "pytest", *tests, "-m", "not long", "-x", "-q", "-p", "no:cacheprovider"]
        done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
        if done.returncode not in (0, 1):  # an internal error of pytest
            raise RuntimeError(done.stdout + done.stderr)
        return done.returncode == 0


def main() -> int:
    wanted = sys.argv[1:]
    jobs = [
        (file, label, order, mutant)
        for file in [*sorted(path for folder in FOLDERS for path in folder.glob("*.py")), PACKAGE / "whitening" / "factor.py"]
        if (not wanted or file.stem in wanted) and file.stem not in {"__init__", *EXCLUDED}
        for label, order, mutant in mutants(ast.parse(file.read_text()))
    ]
    survivors = []
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        alive_or_not = pool.map(lambda job: survives(job[0], job[2], job[3]), jobs)
        for (file, label, *_), alive in zip(jobs, alive_or_not, strict=True):
            print(f"{'SURVIVED' if alive else 'killed  '} {file.name} {label}", flush=True)
            survivors += [f"{file.name} {label}"] if alive else []
    print(f"{len(jobs) - len(survivors)} of {len(jobs)} mutants killed")
    return 1 if survivors or not jobs else 0


if __name__ == "__main__":
    sys.exit(main())
