"""How `nox -s docs` builds the pages."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE)]

import config_reference  # noqa: E402

project = "TorchTitan on Mosaic streams"
copyright = "the authors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_generated"]
html_theme = "furo"
html_title = project

myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3
# Links may lead to any file of the repository; tests/test_docs.py checks them all.
suppress_warnings = ["myst.xref_missing"]

# Docstrings are Google style; `x` in them is code.
default_role = "code"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": False}

# The reference of the configuration is read from the dataclasses by every build.
config_reference.write(HERE / "_generated" / "configuration.md")
