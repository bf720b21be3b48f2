"""Sphinx settings. What can be read from the code is written into ``_generated`` first, and included from there."""

import importlib.metadata
import sys
from pathlib import Path

from sphinx.application import Sphinx

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import generated  # noqa: E402
import public_api  # noqa: E402

generated.write(HERE / "_generated")

project = "TheWorld"
author = "TheWorld contributors"
project_copyright = author
release = importlib.metadata.version("theworld-fusion")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.doctest", "sphinx.ext.napoleon"]
myst_heading_anchors = 2
exclude_patterns = ["_build", "_generated"]
html_theme = "furo"
html_title = project
html_static_path = ["_static"]

napoleon_use_rtype = False
autodoc_member_order = "bysource"
autodoc_default_options = {"exclude-members": "model_config, model_post_init, config_class, validate"}  # of bases
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 100
toc_object_entries = False
suppress_warnings = ["ref.python"]  # the builtin `set` and a field of that name are told apart by nobody

# Examples may write files: each page runs in a folder of its own.
doctest_global_setup = """
import os, tempfile
home, folder = os.getcwd(), tempfile.TemporaryDirectory()
os.chdir(folder.name)
"""
doctest_global_cleanup = """
os.chdir(home)
folder.cleanup()
"""


def setup(app: Sphinx) -> None:
    """Texts below attributes and constants stay as they are: napoleon takes a colon in one for the end of a type."""
    texts = dict[str, list[str]]()

    def before(app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
        # autodoc gives a constant that was imported the text of its class, `dict` for example
        texts[name] = public_api.constant_doc(*name.rpartition(".")[::2]) if what == "data" else [*lines, ""]

    def after(app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
        if what in ("attribute", "data", "property"):
            lines[:] = texts[name]

    app.connect("autodoc-process-docstring", before, priority=400)
    app.connect("autodoc-process-docstring", after, priority=600)
