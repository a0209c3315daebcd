"""Check that no name with a leading underscore is used outside the package that defines it.

    python tools/check_private_names.py [source folder]

An attribute `thing._name` counts as defined in a package if a file of this package assigns or declares `_name`. Private names of
other libraries are listed in `EXEMPT`.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

#: private names of torch and Python without a public counterpart
EXEMPT = {
    "_C",
    "_functorch",
    "_version",
    "_current_level",
    "_getframe",
    "_TorchDispatchModeKey",
    "_exit",
    "_extended_shape",
    "_get_checked_instance",
}


def package(file: Path, source: Path) -> str:
    """The package of a file; a top-level module is a package by itself."""
    return file.relative_to(source).with_suffix("").parts[0]


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def defined(tree: ast.AST) -> Iterator[str]:
    """The private names that a file assigns, declares or defines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.attr if isinstance(node, ast.Attribute) else node.id


def used(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, name) of each private attribute that is read, and of each private name imported from the project."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and private(node.attr) and not torch_internal(node.value):
            yield node.lineno, node.attr
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mvnjac"):
            yield from ((node.lineno, alias.name) for alias in node.names if private(alias.name) and alias.name != "_version")


def torch_internal(value: ast.expr) -> bool:
    """Whether an expression is part of torch's private modules, such as torch._C."""
    return isinstance(value, ast.Attribute) and (value.attr in EXEMPT or torch_internal(value.value))


def violations(source: Path) -> list[str]:
    trees = {file: ast.parse(file.read_text()) for file in sorted(source.rglob("*.py"))}
    names: dict[str, set[str]] = {}
    for file, tree in trees.items():
        names.setdefault(package(file, source), set()).update(defined(tree))
    return [
        f"{file}:{line}: {name} is private to another package"
        for file, tree in trees.items()
        for line, name in sorted(used(tree))
        if name not in EXEMPT and name not in names[package(file, source)]
    ]


if __name__ == "__main__":
    found = violations(Path(sys.argv[1] if len(sys.argv) > 1 else "src/mvnjac"))
    print("\n".join(found) or "no private name is used outside its package")
    sys.exit(bool(found))
