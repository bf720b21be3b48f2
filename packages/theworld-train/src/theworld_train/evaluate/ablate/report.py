"""An ablation's report: Markdown, and one HTML page that needs no other file and no network."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment
from PIL import Image

from theworld_train.data.lazy import load_chat
from theworld_train.evaluate.ablate.arms import Arm
from theworld_train.evaluate.ablate.checks import Seen
from theworld_train.evaluate.ablate.findings import Answers, Comparison, TaskFindings, p_text
from theworld_train.evaluate.ablate.plan import Plan
from theworld_train.evaluate.ablate.plots import curves, forest
from theworld_train.evaluate.task import Item, Task
from theworld_train.loggers import LOG, read_lines
from theworld_train.media import media_of_chat
from theworld_train.pictures import data_url, strip_png

MEANINGS = {
    "on": "the world's features, through the encoder",
    "off": "no world tokens, and no world branch",
    "zeros": "as many tokens, made of zeros",
    "noise": "as many tokens, made of noise that is drawn from the item's pixels",
    "other-item": "the features of another item, from another group",
    "shuffled-slots": "the features, with every frame's places in one other, fixed order",
    "image-repeated": "the features of the last frame, as if nothing had moved",
    "random-init": "the features of the same encoder with random weights",
    "registers": "as many tokens, learnt in training and the same for every item",
}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Everything that a report shows."""

    plan: Plan
    arms: Sequence[Arm]
    seen: Mapping[Arm, Seen]
    trained: Mapping[Arm, int]
    """How many parameters each run trained."""
    tasks: Sequence[tuple[Task, TaskFindings, Answers]]
    swaps: Sequence[TaskFindings]
    """Of models that were trained with the world on, and are given controls at test time."""
    seconds: float
    """Of this call: what earlier ones did is not in it."""
    command: str
    code: Mapping[str, Any]


def write_report(outcome: Outcome, out: Path) -> None:
    """Write ``report.html``, ``report.md`` and ``findings.json``."""
    (out / "findings.json").write_text(json.dumps(_plain(outcome), indent=1), encoding="utf-8")
    shared = {"outcome": outcome, "plan": outcome.plan, "meanings": MEANINGS, "used": _used(outcome)}
    markdown = _environment(autoescape=False).from_string(_template("report.md.jinja")).render(**shared)
    (out / "report.md").write_text(markdown, encoding="utf-8")
    page = _environment(autoescape=True).from_string(_template("report.html.jinja"))
    html = page.render(
        **shared,
        forests=[data_url(forest(found.comparisons)) for _, found, _ in outcome.tasks],
        swap_forests=[data_url(forest(found.comparisons)) for found in outcome.swaps],
        curves=data_url(curves(_losses(outcome, out))),
        clips=[clip for task, _, answers in outcome.tasks for clip in _clips(task, answers)],
    )
    (out / "report.html").write_text(html, encoding="utf-8")


def _used(outcome: Outcome) -> list[str]:
    return list(dict.fromkeys(arm.world for arm in outcome.arms))


def _plain(outcome: Outcome) -> dict[str, Any]:
    return {
        "plan": outcome.plan.model_dump(mode="json"),
        "code": dict(outcome.code),
        "runs": [
            {
                "arm": arm.name,
                "seed": arm.seed,
                "identity": arm.identity,
                "trained_parameters": outcome.trained.get(arm),
                **(asdict(outcome.seen[arm]) if arm in outcome.seen else {}),
            }
            for arm in outcome.arms
        ],
        "tasks": [asdict(found) for _, found, _ in outcome.tasks],
        "swaps": [asdict(found) for found in outcome.swaps],
    }


def _losses(outcome: Outcome, out: Path) -> dict[str, list[tuple[list[int], list[float]]]]:
    found: dict[str, list[tuple[list[int], list[float]]]] = {}
    for arm in outcome.arms:
        log = [entry for entry in read_lines(out / arm.folder / "run" / LOG) if "loss" in entry]
        found.setdefault(arm.name, []).append(([one["step"] for one in log], [one["loss"] for one in log]))
    return found


def _clips(task: Task, answers: Answers, each: int = 1) -> list[dict[str, Any]]:
    """The first items of each family, as film strips, with what every arm's first seed answered."""
    runs = {arm.name: records for arm, records in reversed(list(answers.items()))}
    wanted: dict[str, list[tuple[int, Item]]] = {}
    for place, item in enumerate(task.items()):
        if len(wanted.setdefault(item.family, [])) < each:
            wanted[item.family].append((place, item))
    clips = []
    for place, item in (pair for of_family in wanted.values() for pair in of_family):
        said = [(name, records[place]) for name, records in reversed(list(runs.items()))]
        clips.append(
            {
                "family": item.family,
                "strip": data_url(strip_png(_frames(item))),
                "question": _question(item),
                "answer": item.answer,
                "answers": [(name, one.answer or "(nothing)", bool(one.score)) for name, one in said],
            }
        )
    return clips


def _frames(item: Item) -> list[Image.Image]:
    frames = []
    for _, value in media_of_chat(load_chat(item.messages)):
        of_item = value if isinstance(value, list) else [value]
        frames += [one if isinstance(one, Image.Image) else Image.open(one).convert("RGB") for one in of_item]
    return frames


def _question(item: Item) -> str:
    content = item.messages[-1]["content"]
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
    return " ".join(block["text"] for block in blocks if block["type"] == "text")


def _template(name: str) -> str:
    return files("theworld_train.evaluate.ablate").joinpath(name).read_text(encoding="utf-8")


def _environment(*, autoescape: bool) -> Environment:
    environment = Environment(autoescape=autoescape, trim_blocks=True, lstrip_blocks=True)
    environment.filters["points"] = lambda value: f"{100 * value:.1f}"
    environment.filters["p"] = lambda value: p_text(value).removeprefix("= ")
    environment.filters["signed"] = lambda value: f"{100 * value:+.1f}"
    return environment


def verdicts(comparisons: Sequence[Comparison]) -> list[str]:
    """The sentences, for the terminal."""
    return [one.sentence for one in comparisons]
