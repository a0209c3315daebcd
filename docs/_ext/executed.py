"""Reads pages of plain Markdown and converts their ```python blocks to cells, which are executed in order, with one kernel per page."""

from __future__ import annotations

import re
from pathlib import Path

from myst_nb.core.read import read_myst_markdown_notebook
from nbformat import NotebookNode
from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parent.parent.parent
HEAD = """---
file_format: mystnb
kernelspec:
  name: python3
---

```{{code-cell}} python
:tags: [remove-cell]
import os

os.chdir({root!r})
```

"""
NOTHING_TO_RUN = """---
file_format: mystnb
kernelspec:
  name: python3
mystnb:
  execution_mode: "off"
---

"""


def notebook(text: str) -> NotebookNode:
    """The page as a notebook that runs in the root of the repository."""
    text = text.replace("](../../benchmarks/RESULTS.md)", "](benchmarks.md)")  # the page that includes this file
    cells = re.sub(r"^```python$", "```{code-cell} python", text, flags=re.MULTILINE)
    if cells == text:
        return read_myst_markdown_notebook(NOTHING_TO_RUN + text, add_source_map=True)
    return read_myst_markdown_notebook(HEAD.format(root=str(ROOT)) + cells, add_source_map=True)


def setup(app: Sphinx) -> dict[str, bool]:
    return {"parallel_read_safe": True, "parallel_write_safe": True}
