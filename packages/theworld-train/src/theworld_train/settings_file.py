"""Files of settings, recipes and others: shipped by the package or one's own, with single values changed."""

from collections.abc import Sequence
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from theworld_train.errors import UsageError
from theworld_train.recipe_errors import one_line
from theworld_train.recipe_yaml import load_yaml, yaml_problem

_SUFFIXES = (".yaml", ".yml")

S = TypeVar("S", bound=BaseModel)


def load_settings(kind: type[S], noun: str, name_or_path: str, overrides: Sequence[str] = ()) -> S:
    """Read shipped settings, from the folder of the ``noun``'s plural, or a YAML file.

    Args:
        overrides: ``path=value`` each, with values in YAML; they are put in before the settings are checked.

    Raises:
        UsageError: there is no such file, it is no YAML, or a field is unknown or wrong.
    """
    text = _text(noun, name_or_path)
    try:
        raw = load_yaml(text)
    except yaml.YAMLError as error:
        raise UsageError(f"{name_or_path} is no YAML: {yaml_problem(error)}. Mend that line.") from error
    if not isinstance(raw, dict):
        raise UsageError(f"{name_or_path} holds no fields. Start from a shipped one: {', '.join(shipped(noun))}.")
    for override in overrides:
        _set(raw, override)
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        raise UsageError(one_line(error, raw, kind)) from error


def shipped(noun: str) -> dict[str, str]:
    """What the package ships: name, and its first comment, which says what it is for."""
    folder = files("theworld_train") / f"{noun}s"
    texts = {file.name: file.read_text(encoding="utf-8") for file in folder.iterdir() if file.name.endswith(_SUFFIXES)}
    return {name.rpartition(".")[0]: texts[name].partition("\n")[0].lstrip("# ") for name in sorted(texts)}


def _text(noun: str, name_or_path: str) -> str:
    known = shipped(noun)
    if name_or_path in known:
        return (files("theworld_train") / f"{noun}s" / f"{name_or_path}.yaml").read_text(encoding="utf-8")
    if not name_or_path.endswith(_SUFFIXES):
        near = get_close_matches(name_or_path, known, n=1)
        hint = f"Did you mean {near[0]}?" if near else "Or give the path of a file that ends in .yaml."
        raise UsageError(f"there is no {noun} called {name_or_path!r}. Shipped ones: {', '.join(known)}. {hint}")
    try:
        return Path(name_or_path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"the {noun} {name_or_path} is no text in UTF-8. Save it as such.") from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(
            f"the {noun} {name_or_path} cannot be read ({reason}). Check the path, or take a shipped one: "
            f"{', '.join(known)}."
        ) from error


def _set(raw: dict[str, Any], override: str) -> None:
    """Put one ``path=value`` into the mapping; sections on the way that are not there yet are made."""
    path, equals, text = override.partition("=")
    path = path.strip()
    if not equals or not path:
        raise UsageError(f"--set {override} has no value. Write it as path=value, e.g. optim.lr=2e-5.")
    try:
        value = load_yaml(text)
    except yaml.YAMLError as error:
        raise UsageError(f"--set {override}: the value is no YAML ({yaml_problem(error)}). Quote it.") from error
    *sections, last = path.split(".")
    node: Any = raw
    walked: list[str] = []
    for section in sections:
        key: Any = _key(node, section, walked, override)
        below = node[key] if isinstance(node, list) else node.get(key)
        if below is None:
            below = node[key] = {}
        node = below
        walked.append(section)
    node[_key(node, last, walked, override)] = value


def _key(node: Any, step: str, walked: Sequence[str], override: str) -> str | int:
    """What ``step`` means at ``node``: a name in a mapping, a place in a list."""
    if isinstance(node, dict):
        return step
    where = ".".join(walked)
    if not isinstance(node, list):
        raise UsageError(f"--set {override}: {where} is {node!r}, which has nothing in it. Set {where} itself.")
    if not step.isdecimal() or int(step) >= len(node):
        raise UsageError(
            f"--set {override}: {where} is a list of {len(node)}, and {step} is none of its places. "
            f"Use 0 to {len(node) - 1}."
        )
    return int(step)
