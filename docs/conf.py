"""Sphinx configuration: MyST pages whose ```python blocks are executed by the build, and an API reference from the docstrings."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

import mvnjac  # after the change of sys.path

project, author = "mvnjac", "The mvnjac developers"
copyright = "The mvnjac developers, BSD-3-Clause"
version = release = mvnjac.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "docstrings",
    "executed",
    "layers",
    "mathml",
]
exclude_patterns = ["_ext", "_static"]

# The build fails if the code of a page fails or writes to standard error.
nb_custom_formats = {".md": "executed.notebook"}
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 120
nb_output_stderr = "error"
nb_merge_streams = True
myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3
html_math_renderer = "mathml"

default_role = "py:obj"
autosummary_generate = True
autodoc_typehints = "none"  # the Args sections state types and shapes
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_use_rtype = False
napoleon_custom_sections = ["Source"]
templates_path = ["_templates"]

html_theme = "furo"
html_title = f"mvnjac {version}"
html_static_path = ["_static"]
html_css_files = ["mvnjac.css"]
html_theme_options = {"navigation_with_keys": True}
