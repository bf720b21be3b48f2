"""The model card: what a run's own files say, and no word more."""

import json
import re
from collections.abc import Sequence
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData
from jinja2 import Environment

from theworld_fusion import is_hub_id
from theworld_train.bases import Base
from theworld_train.errors import UsageError
from theworld_train.loggers import LOG, read_lines
from theworld_train.push import Checkpoint
from theworld_train.recipe import AnySource, BatchSettings, Recipe
from theworld_train.run_folder import PARTS, SAMPLES

_LIBRARIES = ("theworld-train", "theworld-fusion", "theworld-encoders", "torch", "transformers", "diffusers")
_DATA_FILES = (".jsonl", ".ndjson", ".json", ".parquet", ".arrow")
_SHOWN = 4
"""Sample answers."""


def make_card(
    checkpoint: Checkpoint, bases: Sequence[Base], repo: str, *, whole: bool = False, revision: str | None = None
) -> str:
    """Markdown with YAML metadata, for the ``README.md`` of ``repo``."""
    recipe, description = checkpoint.recipe, checkpoint.description()
    if not recipe.model.has_world:
        bases = [base for base in bases if base.role == "vlm"]
    environment = Environment(keep_trailing_newline=True)  # Markdown: nothing is escaped but by `cell`
    environment.filters["cell"] = _cell
    template = environment.from_string((files("theworld_train") / "card.md.jinja").read_text(encoding="utf-8"))
    text = template.render(
        metadata=_metadata(checkpoint, bases, description["assembly"]["encoder"], whole=whole),
        repo=repo,
        revision=revision,
        arguments=f'"{repo}"' if revision is None else f'"{repo}", revision="{revision}"',
        whole=whole,
        toy=checkpoint.toy is not None,
        lora=bool(description["lora"]),
        encoder=description["assembly"]["encoder"],
        recipe=recipe,
        step=checkpoint.step,
        steps=sum(stage.steps for stage in recipe.stages),
        bases=bases,
        name_of=_name,
        licence_of=_licence,
        stages=_stages(recipe, checkpoint.step),
        rows=json.loads((checkpoint.folder / PARTS).read_text(encoding="utf-8")),
        batch=_batch(recipe.batch),
        losses=_losses(checkpoint),
        samples=_samples(checkpoint),
        evaluations=_evaluations(checkpoint.run),
        versions=", ".join(f"{name} {version(name)}" for name in _LIBRARIES),
    )
    return re.sub(r"\n{3,}", "\n\n", text)


def _metadata(checkpoint: Checkpoint, bases: Sequence[Base], encoder: str, *, whole: bool) -> str:
    toy, published = checkpoint.toy is not None, [base.hub_id for base in bases if base.hub_id]
    sources = [source for stage in checkpoint.recipe.stages for source in stage.data.sources]
    data = ModelCardData(
        base_model=published or None,
        base_model_relation=("finetune" if whole else "adapter") if published else None,
        datasets=list(dict.fromkeys(name for source in sources if (name := _hub_data(source)))) or None,
        library_name="transformers" if whole else "theworld-fusion",
        license="apache-2.0" if toy else "gemma",
        pipeline_tag="image-text-to-text",
        tags=["theworld", "world-tokens", "gemma3", encoder, *(["toy"] if toy else [])],
    )
    return f"---\n{data.to_yaml()}\n---"


def _name(base: Base) -> str:
    if base.toy:
        return "a toy"
    if base.hub_id is None:
        return "not published under a name that is known"
    at = f" at `{base.revision[:12]}`" if base.revision else ""
    return f"[{base.hub_id}](https://huggingface.co/{base.hub_id}){at}"


def _licence(base: Base) -> str:
    return f"[{base.licence}]({base.licence_link})" if base.licence_link else base.licence


def _stages(recipe: Recipe, step: int) -> list[dict[str, Any]]:
    """Those that the checkpoint has been through, each with the steps that it took of it."""
    stages, first = [], 0
    for stage in recipe.stages:
        if step > first:
            parts = [f"`{name}` at {settings.lr or recipe.optim.lr:g}" for name, settings in stage.parts.items()]
            shares = sum(source.weight for source in stage.data.sources)
            data = [_data(source, source.weight / shares) for source in stage.data.sources]
            done = min(stage.steps, step - first)
            stages.append(
                {
                    "name": stage.name,
                    "steps": stage.steps,
                    "done": done,
                    "parts": ", ".join(parts),
                    "data": ", ".join(data) + (f"; {stage.data.holdout:.2%} held out" if stage.data.holdout else ""),
                }
            )
        first += stage.steps
    return stages


def _data(source: AnySource, share: float) -> str:
    where = _hub_data(source)
    if where:
        where = f" ([{where}](https://huggingface.co/datasets/{where}))"
    elif source.kind == "micro-world":
        where = " (generated clips)"
    else:
        where = " (local files)"
    limit = f", the first {source.limit} examples" if source.limit else ""
    return f"{source.kind}{where}{limit}" + (f" {share:.0%}" if share < 1 else "")


def _hub_data(source: AnySource) -> str | None:
    """A data set's name on the hub, if it has one."""
    path = getattr(source, "path", None)
    return path if path and is_hub_id(path) and not path.endswith(_DATA_FILES) else None


def _batch(batch: BatchSettings) -> str:
    each = f"{batch.size} example{'s' * (batch.size > 1)}" if batch.size else f"up to {batch.tokens} tokens"
    return each if batch.accumulate == 1 else f"{batch.accumulate} times {each}"


def _losses(checkpoint: Checkpoint) -> list[str]:
    names = {"loss": "Training loss", "eval_loss": "Loss on held-out examples"}
    log = [entry for entry in read_lines(checkpoint.run / LOG) if entry["step"] <= checkpoint.step]
    last = {name: entry for entry in log for name in names if name in entry}
    return [
        f"{title} at step {last[name]['step']}: {last[name][name]:.4g} nats per supervised token."
        for name, title in names.items()
        if name in last
    ]


def _samples(checkpoint: Checkpoint) -> list[dict[str, Any]]:
    """The newest that the checkpoint's own weights, or those shortly before, gave."""
    samples = [one for one in read_lines(checkpoint.run / SAMPLES) if one["step"] <= checkpoint.step]
    return [one for one in samples if one["step"] == samples[-1]["step"]][:_SHOWN]


def _evaluations(run: Path) -> list[dict[str, Any]]:
    """Every number in the JSON files of the run's folder."""
    found = []
    for file in sorted(run.glob("*.json")):
        if file.name == PARTS:
            continue
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UsageError(f"{file} is no JSON ({error}), and the card lists it. Mend or remove it.") from error
        found += [{"file": file.name, "figure": name, "value": f"{value:.6g}"} for name, value in _numbers(content)]
    return found


def _numbers(value: Any, name: str = "") -> list[tuple[str, float]]:
    if isinstance(value, dict):
        return [found for key, one in value.items() for found in _numbers(one, f"{name}.{key}" if name else str(key))]
    return [(name, value)] if isinstance(value, int | float) and not isinstance(value, bool) else []


def _cell(text: str) -> str:
    """Text inside a table, shown as it is."""
    return " ".join(re.sub(r"([\\`*_{}\[\]<>|#!])", r"\\\1", str(text)).split())
