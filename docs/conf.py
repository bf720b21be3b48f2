"""Sphinx settings. What can be read from the code is written into ``_generated`` first, and included from there."""

import importlib.metadata
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import generated  # noqa: E402

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

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 100
toc_object_entries = False

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
