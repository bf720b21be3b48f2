"""Every public name is in the reference, as it was built: nox -s docs builds it before it runs this."""

import ast
from pathlib import Path

import pytest
from pages import ROOT
from sphinx.util.inventory import InventoryFile

INVENTORY = ROOT / "docs/_build/html/objects.inv"


def exported(path: Path) -> set[str]:
    """What an ``__init__`` hands on: names imported as themselves, and those of ``__all__``."""
    names = set[str]()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            names |= {alias.name for alias in node.names if alias.name == alias.asname}
        elif isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            names |= set(ast.literal_eval(node.value))
    return names


@pytest.mark.parametrize("package", ["tokens", "encoders", "fusion", "train"])
def test_every_public_name_is_in_the_reference(package: str) -> None:
    assert INVENTORY.is_file(), "build the pages first: nox -s docs"
    inventory = InventoryFile.loads(INVENTORY.read_bytes(), uri="")
    listed = {name for kind, names in inventory.data.items() if kind.startswith("py:") for name in names}
    source = ROOT / f"packages/theworld-{package}/src"
    wanted = {
        f"{'.'.join(path.relative_to(source).parent.parts)}.{name}"
        for path in source.rglob("__init__.py")
        for name in exported(path)
    }
    assert len(wanted) > 5
    assert sorted(wanted - listed) == []
