"""Checks of the pages. `make docs` executes all of them; those whose code must run wherever the tests run are executed here."""

from __future__ import annotations

import doctest
import importlib.util
import re
from pathlib import Path

import pytest

import mvnjac
from mvnjac import inference
from tests.cli.test_cli import run

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))


@pytest.mark.parametrize("page", ["README.md", "docs/explanation/mathematics.md"])
def test_the_code_runs(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    assert blocks
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, page, "exec"), names)


@pytest.mark.parametrize("page", ["README.md", "docs/guides/maximum_likelihood.md"])
def test_the_command_lines_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the exchange rates and a small table, in order, since some commands read what an earlier one writes."""
    lines = re.findall(r"^    (mvnjac .*)$", (ROOT / page).read_text(), re.MULTILINE)
    assert len(lines) >= 3
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rates.csv.gz").symlink_to(ROOT / "examples" / "data" / "ecb_reference_rates.csv.gz")
    (tmp_path / "data.csv").write_text("a,b\n" + "".join(f"{i % 5},{i % 7}\n" for i in range(40)))
    for line in lines:
        assert run(*line.split()[1:])[0] == 0, line


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", *(str(page.relative_to(ROOT)) for page in PAGES)])
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text()
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / page).parent.joinpath(target).exists(), target


def test_every_page_is_in_the_index() -> None:
    trees = re.findall(r"```\{toctree\}\n(.*?)```", (DOCS / "index.md").read_text(), re.DOTALL)
    listed = [line for tree in trees for line in tree.splitlines() if line and not line.startswith(":")]
    assert sorted(listed) == sorted(str(page.relative_to(DOCS).with_suffix("")) for page in PAGES if page.stem != "index")


def test_every_public_name_is_in_the_reference() -> None:
    reference = set((DOCS / "reference" / "api.md").read_text().split())
    modules = {"__version__", *mvnjac._SUBMODULES}
    missing = [name for name in [*dir(mvnjac), *dir(inference)] if name not in reference | modules | {"MvnjacError"}]
    assert not missing, missing


def test_the_examples_of_the_build_extension() -> None:
    path = DOCS / "_ext" / "docstrings.py"
    spec = importlib.util.spec_from_file_location("docstrings", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    result = doctest.testmod(module)
    assert result.attempted >= 2
    assert result.failed == 0
