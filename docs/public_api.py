"""What is public, read from the sources: the reference lists it.

That is what a package's and its sub-packages' ``__init__`` export, what its ``testing`` modules define, the modules
whose fields people write into files, and whatever an example on these pages imports.
"""

import ast
import importlib
import inspect
import itertools
import re
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("theworld_tokens", "theworld_encoders", "theworld_fusion", "theworld_train")
WHOLE = ("theworld_train.recipe", "theworld_train.evaluate.ablate.plan")
"""Modules of records that YAML files are written by."""


def public_names(package: str) -> dict[str, list[str]]:
    """Public names of each module of ``package``, the package itself first."""
    source = ROOT / "packages" / package.replace("_", "-") / "src"
    found = defaultdict[str, set[str]](set)
    for path in sorted(source.rglob("*.py")):
        module = ".".join(path.relative_to(source).with_suffix("").parts).removesuffix(".__init__")
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if path.name == "__init__.py":
            found[module] |= exported(tree)
        if path.name.startswith("testing") or path.name == "__init__.py" or module in WHOLE:
            found[module] |= defined(tree)
    known = {(module, name) for module, names in found.items() for name in names}
    for module, name in imported_by_pages():
        if module.partition(".")[0] == package and (module, name) not in known and not is_module(f"{module}.{name}"):
            found[module].add(name)
    return {module: sorted(found[module]) for module in sorted(found) if found[module]}


def exported(tree: ast.Module) -> set[str]:
    """Names in ``__all__``, and those imported as themselves: ``from x import y as y``."""
    names = set[str]()
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            names |= {alias.name for alias in node.names if alias.asname == alias.name}
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "__all__":
            names |= set(ast.literal_eval(node.value))
    return names


def defined(tree: ast.Module) -> set[str]:
    """Names of a module's own functions, classes and constants."""
    names = set[str]()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {one.id for target in targets for one in ast.walk(target) if isinstance(one, ast.Name)}
    return {name for name in names if not name.startswith("_")}


def imported_by_pages() -> set[tuple[str, str]]:
    """Module and name of every import from our packages in the examples of the pages."""
    pattern = re.compile(r"^(?:>>> )?from (theworld_[\w.]+) import ([\w, ]+)$", re.MULTILINE)
    found = set[tuple[str, str]]()
    for page in [*ROOT.glob("docs/*.md"), ROOT / "README.md", *ROOT.glob("packages/*/README.md")]:
        for module, names in pattern.findall(page.read_text(encoding="utf-8")):
            found |= {(module, name.strip()) for name in names.split(",")}
    return found


def is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def reference(package: str) -> str:
    """Markdown: a section for each module, and in it what Sphinx's autodoc says of each name."""
    text = ""
    for module, names in public_names(package).items():
        loaded = importlib.import_module(module)
        text += f"## {module}\n\n{inspect.cleandoc(loaded.__doc__ or '').partition(chr(10))[0]}\n\n```{{eval-rst}}\n"
        for name in names:
            thing = getattr(loaded, name)
            kind = "class" if inspect.isclass(thing) else "function" if inspect.isroutine(thing) else "data"
            kind = "exception" if kind == "class" and issubclass(thing, BaseException) else kind
            option = "   :members:\n" if kind == "class" else "   :no-value:\n" if len(repr(thing)) > 200 else ""
            text += f".. auto{kind}:: {module}.{name}\n{option}\n"
        text += "```\n\n"
    return text


def constant_doc(module: str, name: str) -> list[str]:
    """The text that stands below a constant where it is made, however often it was imported from there."""
    source = inspect.getsource(importlib.import_module(module))
    body = ast.parse(source).body
    for node in body:
        if isinstance(node, ast.ImportFrom) and any(name in (one.name, one.asname) for one in node.names):
            return constant_doc(str(node.module), name)
    for node, after in itertools.pairwise(body):
        made = isinstance(node, ast.Assign | ast.AnnAssign) and name in defined(ast.Module([node], []))
        if made and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            return inspect.cleandoc(str(after.value.value)).splitlines()
    return []
