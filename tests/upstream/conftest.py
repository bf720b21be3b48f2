"""transformers' own tests on our classes, beside the same tests on stock Gemma 3; see ``parity`` for what is reported.

``TRANSFORMERS_SOURCE`` names a checkout of transformers' repository at the installed version: no wheel has its tests.
``pytest -c tests/upstream/pytest.ini tests/upstream`` runs them; they need parameterized, peft and httpx besides.
"""

import importlib
import os
import re
import sys
from pathlib import Path

import pytest
import transformers

sys.path.insert(0, str(Path(__file__).parent))

USAGE = pytest.ExitCode.USAGE_ERROR


def _add_source() -> None:
    """Make the checkout's package ``tests`` importable; refuse to go on without it."""
    source = os.environ.get("TRANSFORMERS_SOURCE")
    if not source:
        pytest.exit("TRANSFORMERS_SOURCE is not set. Name a checkout of transformers at the installed version.", USAGE)
    root = Path(source).resolve()
    needed = ("src/transformers/__init__.py", "tests/test_modeling_common.py", "tests/generation/test_utils.py")
    if missing := [name for name in needed if not (root / name).exists()]:
        pytest.exit(f"TRANSFORMERS_SOURCE={source} has no {', '.join(missing)}. Name a checkout of the whole.", USAGE)
    version = re.search(r'^__version__ = "(.*)"', (root / needed[0]).read_text(encoding="utf-8"), re.MULTILINE)
    if version is None or version[1] != transformers.__version__:
        found = "of no known version" if version is None else version[1]
        pytest.exit(
            f"{source} is {found}, installed is {transformers.__version__}. Check out the installed one.", USAGE
        )
    sys.path.insert(0, str(root))
    tests = importlib.import_module("tests").__file__
    if tests is None or Path(tests).parent != root / "tests":
        pytest.exit("the package 'tests' is not transformers'. Run with -c tests/upstream/pytest.ini.", USAGE)


_add_source()

from adopt import adopt  # noqa: E402
from parity import Parity  # noqa: E402


def pytest_configure(config: pytest.Config) -> None:
    adopt()
    config.pluginmanager.register(Parity())
