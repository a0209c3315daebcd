"""The public names and their signatures are those of `tests/public_api.txt`: what is there stays; what is new is added to it.

`python -m tests.test_public_api > tests/public_api.txt` writes the file anew; a line that disappears from it breaks users' code.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

from mvnjac import Covariance

MODULES = ("", "inference", "distributions", "errors", "sklearn", "distributed", "covariance", "testing", "tables")
#: results, which are made by functions: their constructors are not public
RESULTS = {"Jacobian", "Fit", "Estimates", "Influence", "ScoreProcess", "ScoreTest", "BreakTest", "Observations", "Total"}
LISTED = Path(__file__).with_name("public_api.txt")


def signature(value: object) -> str:
    """The parameters with their kinds and defaults, without annotations."""
    try:
        parameters = inspect.signature(value).parameters.values()
    except (TypeError, ValueError):
        return ""
    plain = [p.replace(annotation=inspect.Parameter.empty) for p in parameters]
    return re.sub(r" at 0x[0-9a-f]+", "", str(inspect.Signature(plain)))


def members(name: str, cls: type) -> Iterator[str]:
    """The public methods and attributes that a class defines, itself or in a base of ours; of structures, beyond `Covariance`."""
    for key in sorted(dir(cls)):
        static = inspect.getattr_static(cls, key)
        owner = next((base for base in cls.__mro__ if key in vars(base)), cls)
        inherited = issubclass(cls, Covariance) and cls is not Covariance and owner in Covariance.__mro__
        if key.startswith("_") or inherited or not owner.__module__.startswith("mvnjac"):
            continue
        is_property = isinstance(static, property) or not callable(getattr(cls, key))
        yield f"{name}.{key}" if is_property else f"{name}.{key}{signature(getattr(cls, key))}"


def listing() -> list[str]:
    lines = []
    for module_name in MODULES:
        module = importlib.import_module(f"mvnjac.{module_name}".rstrip("."))
        for name in sorted(getattr(module, "__all__", None) or dir(module)):
            value = getattr(module, name)
            home = str(getattr(value, "__module__", None))
            foreign = not home.startswith("mvnjac") or (home != module.__name__ and "__dir__" not in vars(module))
            if name.startswith("_") or inspect.ismodule(value) or foreign:
                continue
            full = f"{module.__name__}.{name}"
            if inspect.isclass(value) and issubclass(value, BaseException):
                bases = ", ".join(base.__name__ for base in value.__mro__[1:] if base not in (object, BaseException))
                lines.append(f"{full} is a {bases}")
            elif inspect.isclass(value):
                lines.append(full if name in RESULTS else f"{full}{signature(value)}")
                lines += (
                    [] if module_name == "covariance" else members(full, value)
                )  # there, the contract of Covariance says more
            elif callable(value):
                lines.append(f"{full}{signature(value)}")
            else:
                lines.append(full)
    return sorted(set(lines))


def test_public_names_and_signatures() -> None:
    promised, found = LISTED.read_text().splitlines(), listing()
    assert not (lost := sorted(set(promised) - set(found))), f"no longer there, or with another signature: {lost}"
    assert not (new := sorted(set(found) - set(promised))), f"new: add to {LISTED.name}: {new}"


if __name__ == "__main__":
    print("\n".join(listing()))
