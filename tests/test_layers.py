"""`make lint` fails if an import goes the wrong way or a private name leaves its package; the names of classes are unique."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(
    ("file", "statement", "contract"),
    [
        ("", "", ""),
        ("tensors/tracing.py", "from mvnjac.score import jacobian", "the packages are layers BROKEN"),
        (
            "whitening/factor.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from mvnjac.blocks.base import Block",
            "the packages are layers BROKEN",
        ),
        (
            "covariance/parametrisations/dense.py",
            "from mvnjac.covariance.structured import diagonal",
            "covariance is layers, too BROKEN",
        ),
        ("tables/slices.py", "def late():\n    from mvnjac.tables import base", "no circles anywhere BROKEN"),
    ],
    ids=["as it is", "upwards", "for types", "within covariance", "a circle"],
)
def test_imports_go_one_way(tmp_path: Path, file: str, statement: str, contract: str) -> None:
    shutil.copytree(ROOT / "src" / "mvnjac", tmp_path / "mvnjac", ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    if file:
        path = tmp_path / "mvnjac" / file
        path.write_text(path.read_text() + "\n" + statement + "\n")
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(sys.argv[1], no_cache=True))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(ROOT / "pyproject.toml")],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert (done.returncode != 0) == bool(file), done.stdout + done.stderr
    assert contract in done.stdout


@pytest.mark.parametrize(
    ("statement", "name"),
    [
        ("", ""),
        ("def late(rows):\n    return rows._cached", "_cached"),
        ("from mvnjac.whitening.residuals import _missing", "_missing"),
    ],
    ids=["as it is", "an attribute", "an import"],
)
def test_private_names_stay_in_their_package(tmp_path: Path, statement: str, name: str) -> None:
    shutil.copytree(ROOT / "src" / "mvnjac", tmp_path / "mvnjac", ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    path = tmp_path / "mvnjac" / "cli" / "printing.py"
    path.write_text(path.read_text() + "\n" + statement + "\n")
    tool = ROOT / "tools" / "check_private_names.py"
    done = subprocess.run([sys.executable, str(tool), str(tmp_path / "mvnjac")], capture_output=True, text=True)
    assert (done.returncode != 0) == bool(statement), done.stdout
    assert (f"{name} is private to another package" in done.stdout) == bool(statement)


def test_names_mean_one_thing() -> None:
    """No two classes share a name, and no module is over 300 lines."""
    homes: dict[str, list[str]] = {}
    for file in sorted((ROOT / "src" / "mvnjac").rglob("*.py")):
        text = file.read_text()
        assert text.count("\n") <= 300, f"{file} has {text.count(chr(10))} lines: split it by meaning"
        for node in ast.parse(text).body:
            if isinstance(node, ast.ClassDef):
                homes.setdefault(node.name, []).append(str(file.relative_to(ROOT)))
    assert not {name: files for name, files in homes.items() if len(files) > 1}
