"""The lower bounds of pyproject.toml and the versions that `make test-oldest` installs are the same."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent


def bounds() -> dict[str, str]:
    """Each dependency's lower bound, of the package and of its extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    found: dict[str, str] = {}
    for requirement in (Requirement(text) for group in groups for text in group):
        for specifier in requirement.specifier:
            assert specifier.operator == ">=", f"{requirement}: only lower bounds are given"
            assert found.setdefault(requirement.name, specifier.version) == specifier.version, f"{requirement}: two bounds"
    return found


def pins(name: str) -> dict[str, str]:
    lines = [line.split("#")[0].strip() for line in (ROOT / name).read_text().splitlines()]
    return dict(line.split("==") for line in lines if line)


def test_the_oldest_versions_are_the_lower_bounds() -> None:
    assert pins("constraints-oldest.txt") == bounds()


def test_what_runs_without_an_extra_has_a_bound() -> None:
    """Every imported package has a lower bound, and therefore a tested version."""
    names = {"sklearn": "scikit-learn"}
    source = "\n".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    imported = set(
        re.findall(
            r"^\s*(?:import|from) (matplotlib|numpy|torch|scipy|pandas|pyarrow|ray|rich|safetensors|sklearn|typer|xarray|zarr)\b",
            source,
            re.M,
        )
    )
    assert {names.get(name, name) for name in imported} <= bounds().keys()


def test_no_host_of_an_index_is_named() -> None:
    hosts = re.compile(r"pypi\.org|download\.pytorch|pythonhosted|quay\.io|docker\.io|ghcr\.io|conda\.anaconda")
    pages = [*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md"), ROOT / "Makefile", *ROOT.glob("constraints*.txt")]
    pages += [path for path in (ROOT / ".github").rglob("*") if path.is_file()]
    pages += [ROOT / name for name in ("CITATION.cff", "pyproject.toml", ".pre-commit-config.yaml", "recipe/recipe.yaml")]
    assert [page.name for page in pages if hosts.search(page.read_text(encoding="utf-8"))] == []
