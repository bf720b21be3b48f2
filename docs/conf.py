"""Sphinx settings. The token table is made from theworld_tokens, so that no id is typed twice."""

import importlib.metadata

from theworld_tokens import Gemma3Token, WorldToken

project = "TheWorld"
author = "TheWorld contributors"
project_copyright = author
release = importlib.metadata.version("theworld-fusion")

extensions = ["myst_parser", "sphinx.ext.doctest"]
myst_enable_extensions = ["substitution"]
myst_heading_anchors = 2
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = project
html_static_path = ["_static"]

myst_substitutions = {
    "token_table": "\n".join(
        [
            "| token | id | name |",
            "|---|---:|---|",
            *(
                f"| `{token.text}` | {int(token)} | `{type(token).__name__}.{token.name}` |"
                for table in (Gemma3Token, WorldToken)
                for token in table
            ),
        ]
    )
}

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
