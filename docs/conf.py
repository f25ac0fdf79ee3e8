"""Sphinx settings; `make docs` builds the pages with warnings as errors, executed and without the network.

With DOCS_QUICK=1 in the environment the pages that train for long do so for a short while, as the gate has them.
"""

import hashlib
import importlib
import importlib.metadata
import logging
import os
import sys
from pathlib import Path

from jupyter_cache import get_cache
from sphinx.util import logging as sphinx_logging

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "docs" / "_extensions"))

project = "ppl-models"
author = "The ppl-models developers"
copyright = author
release = version = importlib.metadata.version("ppl-models")

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinx.ext.napoleon"]
extensions += ["commands", "links", "measured", "outputs"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False  # else every forward repeats the text of torch.nn.Module
autodoc_typehints = "description"  # beside each argument, which leaves signatures short
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 88
napoleon_numpy_docstring = False

# A name that is referred to exists.
nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r"(?!guides\.|ppl_models\.).*"),  # of others: to look it up would take the network
    ("py:.*", r"guides\.[a-z_]+\.\w+"),  # of modules that are not public, in the types of signatures
    ("py:.*", r"ppl_models\.([a-z_]+\.[a-z_]+|draw)\.[A-Z]\w+"),
]

# ---------------------------------------------------------------------------------------------------- executed pages


def state_of_the_code() -> str:
    """What the outputs of the pages depend on, beside their own cells: these make a new cache of outputs."""
    digest = hashlib.sha256(os.environ.get("DOCS_QUICK", "").encode())
    for path in [*sorted(ROOT.glob("guides/**/*.py")), *sorted(ROOT.glob("ppl_models/**/*.py"))]:
        digest.update(path.read_bytes())
    for file in ("constraints.txt", "docs/conf.py", "docs/matplotlibrc"):
        digest.update((ROOT / file).read_bytes())
    return digest.hexdigest()[:16]


BUILD = ROOT / "docs" / "_build"

# Kernels are programs of their own: with settings of their own, whoever builds, on one thread each, and on the CPU, for
# libraries warn of a GPU that is not used.
KERNEL = BUILD / "ipython" / "profile_default" / "ipython_kernel_config.py"
KERNEL.parent.mkdir(parents=True, exist_ok=True)
# A kernel warns that it speaks over TCP; it does so to this machine only. Pictures are drawn twice as fine as they are
# shown (docs/_extensions/outputs.py).
KERNEL.write_text(
    "get_config().IPKernelApp.log_level = 'ERROR'\nget_config().InlineBackend.figure_formats = {'retina'}\n"
)
os.environ |= {
    "MATPLOTLIBRC": str(ROOT / "docs" / "matplotlibrc"),
    "IPYTHONDIR": str(BUILD / "ipython"),
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "JAX_PLATFORMS": "cpu",
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    "PYTHONWARNINGS": "ignore:IProgress not found",  # tqdm, in any notebook without widgets
}

logging.getLogger("traitlets").setLevel(logging.WARNING)  # not each page that is run

nb_execution_mode = "cache"
nb_execution_cache_path = str(BUILD / "executed" / state_of_the_code())
nb_execution_in_temp = True  # what a page writes is not left among the pages
nb_execution_timeout = 600  # of a cell, on a slow machine
nb_execution_raise_on_error = False  # a cell that fails is a warning with its traceback, and all pages are run
nb_execution_show_tb = True
nb_merge_streams = True
nb_output_stderr = "remove-warn"  # a warning in a page is an error of the build
suppress_warnings = ["mystnb.unknown_mime_type"]
nb_number_source_lines = False


def share_out(app, env, docnames):
    """Let the processes of a parallel build have as many pages that run: each takes neighbours of the list."""
    get_cache(nb_execution_cache_path).list_cache_records()  # makes the cache, which is theirs together
    runs = [name for name in docnames if "file_format: mystnb" in Path(env.doc2path(name)).read_text(encoding="utf-8")]
    others = [name for name in docnames if name not in runs]
    docnames[:] = [name for i, run in enumerate(runs) for name in (run, *others[i : i + 1])] + others[len(runs) :]


# ---------------------------------------------------------------------------------------------------------- the looks

html_theme = "furo"
html_title = f"ppl-models {release}"
html_css_files = ["style.css"]
# One file with its fonts, so that formulas show without the network.
MATHJAX = "sphinx-mathjax-offline/static/mathjax/tex-svg.js"
html_static_path = ["_static", str(importlib.metadata.distribution("sphinx-mathjax-offline").locate_file(MATHJAX))]
mathjax_path = "tex-svg.js"

# ---------------------------------------------------------------------------------------------------------- the checks


def all_is_documented(app, env):
    """Warn, which fails the build, of each name in the ``__all__`` of a documented module that no page describes."""
    domain = env.get_domain("py")
    for module in domain.modules:
        for name in importlib.import_module(module).__all__:
            if f"{module}.{name}" not in domain.objects:
                sphinx_logging.getLogger(__name__).warning("%s.%s is public and on no page", module, name)


def setup(app):
    app.connect("env-before-read-docs", share_out)
    app.connect("env-check-consistency", all_is_documented)
    return {"parallel_read_safe": True}
