"""The directive `layers` draws the layers of packages from the import contract in pyproject.toml, which `make lint` checks."""

from __future__ import annotations

import ast
import tomllib
from html import escape
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).resolve().parents[2]


def layers() -> list[list[str]]:
    """The packages of each layer, from the highest layer to the lowest."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
    (contract,) = [one for one in contracts if one.get("containers") == ["mvnjac"]]
    return [[name.strip() for name in layer.split("|")] for layer in contract["layers"]]


def purpose(name: str) -> str:
    """The first sentence of a package's docstring."""
    folder = ROOT / "src" / "mvnjac" / name
    source = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
    text = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or ""
    return text.partition("\n\n")[0].replace("\n", " ").replace("`", "")


class Layers(SphinxDirective):
    """One row per layer, one box per package."""

    def run(self) -> list[nodes.Node]:
        rows = [
            "".join(f"<div><code>{name}</code><span>{escape(purpose(name))}</span></div>" for name in layer)
            for layer in layers()
        ]
        picture = "".join(f'<div class="layer">{row}</div>' for row in rows)
        return [nodes.raw("", f'<div class="layers" role="figure">{picture}</div>', format="html")]


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("layers", Layers)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
