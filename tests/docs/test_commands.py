"""Every command on the pages exists: its name, its options, the recipes, plans, fields and sessions in it."""

import importlib.util
import re
import shlex
import tomllib
import typing
from functools import cache
from typing import Any

import nox.registry
import pytest
import typer
from field_paths import is_field
from pages import ROOT, Piece, blocks, commands, spans

from theworld_train.cli import app
from theworld_train.evaluate.ablate.plan import Plan
from theworld_train.evaluate.ablate.plan_file import shipped_plans
from theworld_train.evaluate.arms import ARMS
from theworld_train.evaluate.tasks import task_settings
from theworld_train.recipe import Recipe
from theworld_train.recipe_file import shipped

FOREIGN = {
    "--help": "every command",
    "--config_file": "accelerate",
    "--force_simple": "lmms-eval",
    "--model_args": "lmms-eval",
    "--batch_size": "lmms-eval",
    "--tasks": "lmms-eval",
    "--no-python": "torchrun",
    "--nproc-per-node": "torchrun",
    "--standalone": "torchrun",
    "--trust-remote-code": "transformers serve",
    "--gates": "nox -s release",
}
"""Options of others that pages mention, by the program that has them."""

TYPED = [(piece, line) for piece in blocks("console") for line in commands(piece)]
TYPED += [(piece, piece.text) for piece in spans() if re.match(r"(theworld|nox|pip|hf) ", piece.text)]


def of(program: str) -> list[Any]:
    """Commands that run ``program``, whatever stands before it: a path, variables, a launcher."""
    found = []
    for piece, line in TYPED:
        for part in re.split(r"&&|\||>", line):
            words = shlex.split(part.replace("...", "PLACEHOLDER"))
            places = [place for place, word in enumerate(words) if word.rpartition("/")[2] == program]
            places = [place for place in places if not place or words[place - 1] != "--model"]  # of lmms-eval
            if places:
                words = words[places[0] + 1 :]
                words += ["PLACEHOLDER"] if words and words[-1].startswith("--") else []  # an option alone, in a text
                found.append(pytest.param(piece, words, id=f"{piece} {' '.join(words)}"[:90]))
    return found


@cache
def root() -> Any:
    return typer.main.get_command(app)


@cache
def options(command: Any = None) -> frozenset[str]:
    """Of one command, or of all."""
    if command is None:
        return frozenset().union(*(options(one) for one in every(root())))
    return frozenset(name for one in command.params for name in (*one.opts, *one.secondary_opts) if name[0] == "-")


def every(command: Any) -> list[Any]:
    return [command, *(one for below in getattr(command, "commands", {}).values() for one in every(below))]


def parsed(words: list[str]) -> tuple[Any, dict[str, Any]]:
    """The command that ``words`` call, and the values of its parameters as they are typed."""
    command, rest = root(), list(words)
    while rest and rest[0] in getattr(command, "commands", {}):
        command = command.commands[rest.pop(0)]
    context = command.context_class(command)
    values, extra, _ = command.make_parser(context).parse_args(rest)
    assert set(extra) <= {"PLACEHOLDER"}, f"{command.name} takes no {extra}"
    return command, values


@pytest.mark.parametrize(("piece", "words"), of("theworld"))
def test_theworld_has_the_command_and_its_options(piece: Piece, words: list[str]) -> None:
    command, values = parsed(words)
    assert command is not root() or not words, f"{piece}: there is no command {words[0]}"
    given = {name: value for name, value in values.items() if value is not None}
    for name, hint in typing.get_type_hints(command.callback).items():
        choices = [one for part in (hint, *typing.get_args(hint)) for one in typing.get_args(part) if type(one) is str]
        choices = list(ARMS) if name == "arm" else choices
        if choices and isinstance(value := given.get(name), str) and value != "PLACEHOLDER":
            assert value in choices, f"{piece}: {name} is {value}, not one of {choices}"
    name = given.get("recipe") or given.get("plan")
    if command.name in ("train", "launch", "estimate", "ablate") and name and not name.endswith(".yaml"):
        known = shipped_plans() if command.name == "ablate" else shipped()
        assert name in known or name.isupper(), f"{piece}: {name} is not shipped"
    changes = [one.name for one in command.params if "--set" in one.opts]
    for override in given.get(changes[0]) or () if changes else ():
        path = override.partition("=")[0]
        assert is_field(path, Plan if command.name == "ablate" else Recipe), f"{piece}: {path} is no field"
    if command.name in ("evaluate", "sensitivity") and (task := given.get("task")) and task != "PLACEHOLDER":
        task_settings(task)


def test_paths_are_told_from_misspelt_ones() -> None:
    known = ("optim.lr", "stages.0.parts.language_model.lora.rank", "stages.0.data.sources.0.path", "model.config.x")
    unknown = ("optim.lrr", "stages.0.parts.language_model.lora.rnk", "stages.0.data.sources.0.pth", "batch.size.x")
    assert [is_field(path) for path in (*known, *unknown)] == [True] * 4 + [False] * 4
    assert not is_field("grid.sots", Plan)


def test_a_misspelt_option_is_found() -> None:
    with pytest.raises(Exception, match="resme"):
        parsed(["train", "smoke", "--resme"])


@pytest.mark.parametrize("piece", [one for one in spans() if one.text.startswith("--")], ids=str)
def test_options_in_the_text_exist(piece: Piece) -> None:
    for option in re.findall(r"--[a-z][\w-]*", piece.text):
        assert option in options() or option in FOREIGN, f"{piece}: no command has {option}"


@cache
def sessions() -> frozenset[str]:
    """All of the noxfile's, those that plain ``nox`` leaves out too, with and without their parameters."""
    spec = importlib.util.spec_from_file_location("noxfile", ROOT / "noxfile.py")
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    found = set[str]()
    for name, session in nox.registry.get().items():
        found |= {name, *(f"{name}({parameters})" for parameters in getattr(session, "parametrize", ()))}
    return frozenset(found)


@pytest.mark.parametrize(("piece", "words"), of("nox"))
def test_nox_has_the_session(piece: Piece, words: list[str]) -> None:
    words = words[: words.index("--")] if "--" in words else words
    for name in words[words.index("-s") + 1 :] if "-s" in words else ():
        if not name.startswith("-"):
            assert name in sessions() or re.search(r"\((x|<\w+>)\)$", name), f"{piece}: no session {name}"


@pytest.mark.parametrize(("piece", "words"), of("pip"))
def test_what_is_installed_of_ours_has_its_extras(piece: Piece, words: list[str]) -> None:
    for name, extras in re.findall(r"\b(theworld-\w+)(?:\[([\w,]+)\])?", " ".join(words)):
        if name != "theworld-patch-motion":
            project = tomllib.loads((ROOT / "packages" / name / "pyproject.toml").read_text(encoding="utf-8"))[
                "project"
            ]
            known = project.get("optional-dependencies", {})
            assert set(filter(None, extras.split(","))) <= set(known), f"{piece}: {name} has the extras {list(known)}"
