"""How `nox -s docs` builds the pages."""

project = "TorchTitan on Mosaic streams"
copyright = "the authors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
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
