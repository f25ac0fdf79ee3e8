"""Sphinx settings; `make docs` builds the pages with warnings as errors and without the network."""

import importlib.metadata

project = "ppl-models"
author = "The ppl-models developers"
copyright = author
release = version = importlib.metadata.version("ppl-models")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False  # else every forward repeats the text of torch.nn.Module
autodoc_typehints = "description"  # beside each argument, which leaves signatures short
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 88
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = f"ppl-models {release}"
