"""Tables and lists that are made from the code when the pages are built, so that nothing is typed twice."""

import html
import inspect
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import data_flow
import public_api
import typer
from transformers import Gemma3Config

from theworld_encoders.testing_all import TINY_ENCODERS
from theworld_fusion.configuration_theworld import CHOICES, TheWorldConfig
from theworld_tokens import Gemma3Token, WorldToken
from theworld_train.cli import app
from theworld_train.encoders import CLIP_FRAMES, encoder_facts
from theworld_train.recipe_file import load_recipe, shipped


def write(folder: Path) -> None:
    """Write every piece as ``folder/<name>.md``, for ``{include}``."""
    folder.mkdir(exist_ok=True)
    pieces = {
        "tokens": tokens(),
        "commands": commands(),
        "config": config(),
        "encoders": encoders(),
        "shapes": data_flow.table(),
        "recipes": recipes(),
        "verdicts": verdicts(),
        **{f"reference-{name.removeprefix('theworld_')}": public_api.reference(name) for name in public_api.PACKAGES},
    }
    for name, text in pieces.items():
        (folder / f"{name}.md").write_text(text, encoding="utf-8")


def tokens() -> str:
    """Special tokens, their ids and their names."""
    rows = [
        [f"`{token.text}`", str(int(token)), f"`{type(token).__name__}.{token.name}`"]
        for kind in (Gemma3Token, WorldToken)
        for token in kind
    ]
    return _table(["token", "id", "name"], rows)


def config() -> str:
    """Fields that ``TheWorldConfig`` has beside Gemma 3's, with what its docstring says of them."""
    described = _arguments(inspect.cleandoc(TheWorldConfig.__doc__ or ""))
    inherited = {field.name for field in fields(Gemma3Config)}
    rows = []
    for field in fields(TheWorldConfig):
        if field.name not in inherited:
            values = ", ".join(f"`{choice}`" for choice in CHOICES.get(field.name, ())) or f"`{field.default}`"
            rows.append([f"`{field.name}`", values, described[field.name]])
    return _table(["field", "default; or values, the default first", "what it is"], rows)


def encoders() -> str:
    """Our encoders, by their specs."""
    rows = []
    for one in map(encoder_facts, sorted(TINY_ENCODERS)):
        strides = f"{one.spatial_stride} px, {one.temporal_stride} frames"
        size = "" if one.parameters is None else f"{one.parameters / 1e6:,.1f} M"
        licence = one.licence + (", gated" if one.gated else "")
        counts = [f"{one.width:,}", strides, f"{one.image_tokens:,}", f"{one.clip_tokens:,}", size]
        rows.append([f"`{one.name}`", *counts, one.repo_id, licence])
    header = ["encoder", "width", "strides", "tokens of a picture", f"of {CLIP_FRAMES} frames", "parameters"]
    return _table([*header, "published weights", "their licence"], rows)


def recipes() -> str:
    """Shipped recipes, their stages, and what each is for."""
    stages = {name: ", then ".join(stage.name for stage in load_recipe(name).stages) for name in shipped()}
    return _table(["recipe", "stages", "for"], [[f"`{name}`", stages[name], text] for name, text in shipped().items()])


def commands() -> str:
    """Every command of ``theworld``, as its own help has it."""
    text = ""
    for name, command in _commands(typer.main.get_command(app), "theworld"):
        if hasattr(command, "commands") and not command.invoke_without_command:
            continue
        arguments = [one for one in command.params if one.param_type_name == "argument"]
        options = [one for one in command.params if one.param_type_name == "option" and one.name != "help"]
        usage = " ".join([name, *map(_argument, arguments)])
        text += f"## {name}\n\n```text\n{usage} [OPTIONS]\n```\n\n{_paragraphs(command.help)}\n\n"
        rows = [[f"`{one.opts[0]}`", _default(one), html.escape(one.help or "", quote=False)] for one in options]
        text += _table(["option", "default", ""], rows) + "\n"
    return text


def verdicts() -> str:
    """What the report of the shipped ablation says, from its page: each verdict, and the scores by family."""
    page = (Path(__file__).parent / "_static/ablation-micro-world.html").read_text(encoding="utf-8")
    found = re.findall(r"(?s)<li[^>]*>(.*?)</li>", page)
    plain = [" ".join(html.unescape(re.sub(r"<[^>]+>", " ", one)).split()) for one in found]
    return "".join(f"- {one}\n" for one in plain if re.match(r"(better|worse|same|open) ", one))


def _commands(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    yield name, command
    for below, one in getattr(command, "commands", {}).items():
        yield from _commands(one, f"{name} {below}")


def _argument(argument: Any) -> str:
    shown = argument.metavar or argument.name.upper() + ("..." if argument.nargs == -1 else "")
    return shown if argument.required else f"[{shown}]"


def _paragraphs(text: str | None) -> str:
    """A command's help as Markdown: its examples are code."""
    paragraphs = [" ".join(part.split()) for part in (text or "").split("\n\n")]
    return "\n\n".join(re.sub(r": (theworld [^:]*)$", r": `\1`", one) for one in paragraphs)


def _default(option: Any) -> str:
    value = option.default
    return "" if value in (None, False, ()) or callable(value) else f"`{value}`"


def _arguments(docstring: str) -> dict[str, str]:
    """Descriptions in the section ``Args:``; several names before a colon share one."""
    section = docstring.partition("Args:\n")[2]
    found = dict[str, str]()
    for names, text in re.findall(r"(?ms)^    (\w[\w, ]*): (.*?)(?=^    \w|\Z)", section):
        found |= {name.strip(): " ".join(text.split()).replace("``", "`") for name in names.split(",")}
    return found


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)
