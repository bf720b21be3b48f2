"""The arrows between the packages: train -> fusion -> {encoders, tokens}; any other import is a mistake."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path

import pytest

PACKAGES = Path(__file__).parents[2] / "packages"
ALLOWED = {
    "theworld_tokens": set(),
    "theworld_encoders": set(),
    "theworld_fusion": {"theworld_encoders", "theworld_tokens"},
    "theworld_train": {"theworld_fusion", "theworld_encoders", "theworld_tokens"},
}


def imported(source: str) -> Iterator[tuple[str, int]]:
    """Module name and line of every import in ``source``, also of those inside functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield str(node.module), node.lineno
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
            first = node.args[0] if node.args else None
            if name in {"import_module", "__import__"} and isinstance(first, ast.Constant):
                yield str(first.value), node.lineno


def wrong_imports(package: str, source: str) -> list[str]:
    """Imports in ``source`` that a module of ``package`` may not have."""
    forbidden = set(ALLOWED) - ALLOWED[package] - {package}
    wrong = []
    for module, line in imported(source):
        name = module.partition(".")[0]
        outside_stdlib = package == "theworld_tokens" and name not in {package, *sys.stdlib_module_names}
        # Encoders know nothing of vocabularies, and so nothing of the library that brings them but bare models.
        bare_model = re.fullmatch(r"transformers\.models\.\w+\.modeling_\w+", module)
        vocabulary = package == "theworld_encoders" and name in {"transformers", "tokenizers"} and not bare_model
        if name in forbidden or outside_stdlib or vocabulary:
            wrong.append(f"line {line}: {package} imports {name}")
    return wrong


def sources(package: str) -> list[Path]:
    return sorted((PACKAGES / package.replace("_", "-") / "src" / package).rglob("*.py"))


@pytest.mark.parametrize("package", ALLOWED)
def test_imports_follow_the_arrows(package: str) -> None:
    assert sources(package)
    wrong = [f"{path.name} {found}" for path in sources(package) for found in wrong_imports(package, path.read_text())]
    assert wrong == []


HOSTS = {"lmms_eval"}
"""They import what we offer through their entry points; who does not have them never loads it."""


@pytest.mark.parametrize("package", ALLOWED)
def test_every_import_is_declared(package: str) -> None:
    """Also of what comes along with another dependency today; extras count."""
    project = tomllib.loads((PACKAGES / package.replace("_", "-") / "pyproject.toml").read_text())["project"]
    needs = [*project["dependencies"], *chain(*project.get("optional-dependencies", {}).values())]
    declared = {re.match(r"[\w.-]+", need).group().lower().replace("_", "-") for need in needs}
    names = {name.partition(".")[0] for path in sources(package) for name, _ in imported(path.read_text())}
    providers = packages_distributions()
    undeclared = [
        name
        for name in sorted(names - {package, "__future__", *HOSTS, *sys.stdlib_module_names})
        if declared.isdisjoint(provider.lower().replace("_", "-") for provider in providers.get(name, [name]))
    ]
    assert undeclared == []


@pytest.mark.parametrize(
    ("package", "source", "found"),
    [
        ("theworld_tokens", "import json\nimport torch\n", ["line 2: theworld_tokens imports torch"]),
        (
            "theworld_tokens",
            "from theworld_encoders.spec import x",
            ["line 1: theworld_tokens imports theworld_encoders"],
        ),
        ("theworld_encoders", "from theworld_tokens import SOW", ["line 1: theworld_encoders imports theworld_tokens"]),
        ("theworld_encoders", "def f():\n    import transformers", ["line 2: theworld_encoders imports transformers"]),
        (
            "theworld_encoders",
            "from transformers import AutoTokenizer",
            ["line 1: theworld_encoders imports transformers"],
        ),
        ("theworld_encoders", "import transformers.models.siglip.modeling_siglip as modeling", []),
        ("theworld_encoders", "import theworld_fusion.scatter", ["line 1: theworld_encoders imports theworld_fusion"]),
        (
            "theworld_fusion",
            "from importlib import import_module\nimport_module('theworld_train.loss')",
            ["line 2: theworld_fusion imports theworld_train"],
        ),
        ("theworld_fusion", "import torch\nimport theworld_tokens\nfrom . import scatter", []),
        ("theworld_train", "import theworld_fusion, theworld_encoders, theworld_tokens", []),
    ],
)
def test_the_walk_finds_wrong_imports(package: str, source: str, found: list[str]) -> None:
    assert wrong_imports(package, source) == found
