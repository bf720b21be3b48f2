"""What others may lean on, compared with the last release: run as a script, in an environment with griffe.

Public is what a package's ``__init__`` exports, its ``testing`` modules, and whatever a sibling imports from it.
"""

import ast
import re
import sys
from pathlib import Path

import griffe

from releasing.tree import PACKAGES, Package


def breaks(old: Package, new: Package) -> list[str]:
    """Every public thing of ``old`` that ``new`` took away or changed, in a sentence each.

    ``old`` says what is public: nobody leans yet on what came later.
    """
    before, after = _load(old), _load(new)
    _keep(before, imported_by_siblings(old))
    return sorted({_sentence(breakage) for breakage in griffe.find_breaking_changes(before, after)})


def imported_by_siblings(package: Package) -> set[str]:
    """Dotted names below the package's modules that other packages of the same tree import."""
    found = set[str]()
    for name in PACKAGES:
        for path in (package.root / "packages" / f"theworld-{name}" / "src").rglob("*.py"):
            if name == package.name:
                continue
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{package.module}."):
                    found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def _load(package: Package) -> griffe.Module:
    """Read from sources, without importing them."""
    loaded = griffe.load(package.module, search_paths=[package.folder / "src"], allow_inspection=False)
    assert isinstance(loaded, griffe.Module)
    return loaded


def _keep(module: griffe.Module, imported: set[str], exported: bool = True) -> None:
    """Name what is public as if ``__all__`` did, down to the modules that nothing is public of."""
    if exported:  # re-exported as `from x import y as y`, or made here
        names = {name for name, member in module.members.items() if not member.is_alias and not name.startswith("_")}
        names |= _reexports(module)
    else:
        names = {name.rpartition(".")[2] for name in imported if name.rpartition(".")[0] == module.path}
    for name, member in module.members.items():
        if isinstance(member, griffe.Module):
            _keep(member, imported, exported=name.startswith("testing") or member.path in imported)
            names.discard(name)
            names |= {name} if member.exports else set()
    module.exports = [*sorted(names)]


def _reexports(module: griffe.Module) -> set[str]:
    assert isinstance(module.filepath, Path)
    tree = ast.parse(module.filepath.read_text(encoding="utf-8"))
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    return {alias.name for node in imports for alias in node.names if alias.asname == alias.name}


def _sentence(breakage: griffe.Breakage) -> str:
    text = re.sub(r"\x1b\[\d+m", "", breakage.explain(style=griffe.ExplanationStyle.ONE_LINE))  # without its colours
    return " ".join(text.partition("/src/")[2].split())


if __name__ == "__main__":
    name, old_root, new_root = sys.argv[1:]
    found = breaks(Package(name=name, root=Path(old_root)), Package(name=name, root=Path(new_root)))
    print("\n".join(found))
    sys.exit(3 if found else 0)  # 1 is what an error of this script itself gives
