"""The version is the same wherever it is written, and that of the tag.

    python tools/check_version.py [vX.Y.Z]

With a tag, as when a version is published, the changelog must have a section for it, too.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
#: where the version is written, and how
PLACES = {
    "src/mvnjac/_version.py": r'^__version__ = "(.+)"$',
    "CITATION.cff": r"^version: (.+)$",
    "recipe/recipe.yaml": r"^  version: (\d.*)$",
}


def written(root: Path = ROOT) -> dict[str, str | None]:
    """The version that each file states; None where there is none."""
    found = {
        name: re.search(pattern, (root / name).read_text(encoding="utf-8"), re.MULTILINE) for name, pattern in PLACES.items()
    }
    return {name: None if match is None else match.group(1) for name, match in found.items()}


def problems(tag: str | None, root: Path = ROOT) -> list[str]:
    """What does not agree, one sentence each."""
    versions = written(root)
    expected = versions["src/mvnjac/_version.py"] if tag is None else tag.removeprefix("v")
    found = [
        f"{name}: has version {version}; expected {expected}." for name, version in versions.items() if version != expected
    ]
    changelog = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    if tag is not None and not re.search(rf"^## \[?{re.escape(str(expected))}\b", changelog, re.MULTILINE):
        found.append(f"CHANGELOG.md: has no section {expected}.")
    return found


if __name__ == "__main__":
    messages = problems(sys.argv[1] if len(sys.argv) > 1 else None)
    print("\n".join(messages) or "The versions agree.")
    sys.exit(1 if messages else 0)
