"""Every tensor constructor in the sources specifies device and dtype, so that torch's defaults do not affect results.

The test parses the sources, so that constructors not covered by other tests are checked as well.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.utils._device import _device_constructors

import mvnjac

ROOT = Path(mvnjac.__file__).resolve().parent
#: the constructors to which torch passes the default device, and other functions that create tensors
CONSTRUCTORS = {f.__name__ for f in _device_constructors()} | {"from_file", "normal", "cartesian_prod", "combinations"}
#: constructors whose dtype does not depend on the default dtype
INTEGERS = {"tril_indices", "triu_indices", "randperm", "randint"}
#: names that depend on the default device or dtype, without an argument to change it
UNNAMED = re.compile(r"(Tensor|\w+Tensor|get_default_dtype|get_default_device|set_default_dtype|set_default_device)")
#: other objects that have a device
ON_A_DEVICE = {"Generator"}


def omissions(source: str) -> Iterator[tuple[int, str]]:
    """(line, problem) of each call of a torch constructor that depends on a default."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "torch":
            for name in {alias.name for alias in node.names} & (CONSTRUCTORS | ON_A_DEVICE):
                yield node.lineno, f"torch.{name} is imported by its own name: call it as torch.{name}"
        if isinstance(node, ast.Import) and any(alias.name == "torch" and alias.asname for alias in node.names):
            yield node.lineno, "torch is imported under another name"
        if not isinstance(node, ast.Call):
            continue
        function = ast.unparse(node.func).removeprefix("torch.")
        if not ast.unparse(node.func).startswith("torch."):
            continue
        given = {keyword.arg for keyword in node.keywords}
        if UNNAMED.fullmatch(function):
            yield node.lineno, f"torch.{function} depends on torch's defaults"
        if function in CONSTRUCTORS | ON_A_DEVICE and "device" not in given:
            yield node.lineno, f"torch.{function} without device="
        if function in CONSTRUCTORS - INTEGERS and "dtype" not in given:
            yield node.lineno, f"torch.{function} without dtype="


def test_every_constructor_names_its_device_and_dtype() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {problem}"
        for path in sorted(ROOT.rglob("*.py"))
        for line, problem in omissions(path.read_text())
    ]
    assert not found, "\n" + "\n".join(found)


def test_addresses_are_taken_in_one_place() -> None:
    """Only `kernels.addresses` takes addresses, after checking that they are in CPU memory; `whitening.cache` compares them."""
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sorted(ROOT.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in ("data_ptr", "untyped_storage", "__array_interface__")
    ]
    assert {place.split(":")[0] for place in found} == {"kernels/addresses.py", "whitening/cache.py"}, found


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("torch.arange(n)", "torch.arange without device="),
        ("torch.arange(n, device=x.device)", "torch.arange without dtype="),
        ("x + torch.zeros(2, dtype=x.dtype)", "torch.zeros without device="),
        ("torch.tril_indices(d, d)", "torch.tril_indices without device="),
        ("torch.Generator().manual_seed(0)", "torch.Generator without device="),
        ("torch.FloatTensor([1])", "torch.FloatTensor depends on torch's defaults"),
        ("from torch import zeros", "torch.zeros is imported by its own name: call it as torch.zeros"),
        ("import torch as t", "torch is imported under another name"),
    ],
)
def test_an_omission_is_found(source: str, problem: str) -> None:
    assert problem in [found for _, found in omissions(source)]


def test_the_list_of_constructors_is_torchs() -> None:
    assert {
        "zeros",
        "ones",
        "empty",
        "full",
        "eye",
        "arange",
        "tensor",
        "as_tensor",
        "linspace",
        "randn",
        "tril_indices",
    } <= CONSTRUCTORS
    assert torch.tril_indices(2, 2).dtype is torch.int64
