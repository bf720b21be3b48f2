"""What no single field of a recipe can say: sections that contradict each other, and fields that change nothing."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic import BaseModel

if TYPE_CHECKING:
    from theworld_train.recipe import Recipe

TINY = "tiny"
"""``model.vlm`` for a toy pair, made in the run's folder."""
_ONE_A_PICTURE = ("datacomp", "llava-cc3m")


def problems(recipe: "Recipe") -> Iterator[str]:
    """Each as a sentence of fact with the field's full name and value, and one of remedy.

    What has its default passes for not given: a recipe that is written out in full has to mean the same.
    """
    yield from _model(recipe)
    yield from _batch(recipe)
    yield from _packing(recipe)
    yield from _stages(recipe)
    yield from _parts(recipe)
    yield from _lora(recipe)
    yield from _sources(recipe)
    yield from _optim(recipe)
    yield from _eval(recipe)


def _model(recipe: "Recipe") -> Iterator[str]:
    model = recipe.model
    if model.vlm == TINY:
        for field in ("vlm_revision", "world", "world_revision", "frame_size"):
            if (value := getattr(model, field)) is not None:
                yield f"model.{field} is {value!r}, but model.vlm is {TINY}, a pair made here. Leave one of them out."
    if not model.has_world and recipe.model.config.get("num_world_steps"):
        yield "model.config.num_world_steps is for a world branch, and world_fusion is none. Leave one of them out."


def _batch(recipe: "Recipe") -> Iterator[str]:
    batch = recipe.batch
    if batch.size is not None and batch.tokens is not None:
        yield f"batch.size is {batch.size} and batch.tokens is {batch.tokens}. Keep one of them."
    if batch.size is None and batch.tokens is None:
        yield "batch has neither size nor tokens. Give one of them."
    if batch.group_by_length and all(stage.data.shuffle == 1 for stage in recipe.stages):
        yield "batch.group_by_length is true, but data.shuffle is 1, which keeps the rows' order. Raise it."


def _packing(recipe: "Recipe") -> Iterator[str]:
    batch, data = recipe.batch, [stage.data for stage in recipe.stages]
    if batch.packing == "none":
        if batch.row_tokens is not None:
            yield f"batch.row_tokens is {batch.row_tokens}, and batch.packing is none. Leave it out, or use samples."
        return
    if batch.size == 1:
        yield f"batch.packing is {batch.packing}, but batch.size is 1: there is nothing to pack. Raise it, or use none."
    if batch.row_tokens is not None and batch.tokens is not None and batch.row_tokens > batch.tokens:
        yield f"batch.row_tokens is {batch.row_tokens}, but batch.tokens is {batch.tokens}. No row may have more."
    if batch.group_by_length:
        yield "batch.group_by_length saves padding, and packing leaves hardly any. Leave one of them out."
    if batch.packing == "shared_prefix":
        if all(one.shuffle == 1 for one in data):
            yield (
                "batch.packing is shared_prefix, which brings rows about one picture together, but data.shuffle is 1, "
                "which keeps the rows' order. Raise it."
            )
        if all(source.kind in _ONE_A_PICTURE for one in data for source in one.sources):
            yield (
                "batch.packing is shared_prefix, but no source asks about a picture twice: "
                f"{' and '.join(_ONE_A_PICTURE)} have one row for each. Use samples."
            )


def _stages(recipe: "Recipe") -> Iterator[str]:
    names: set[str] = set()
    for index, stage in enumerate(recipe.stages):
        if stage.name in names:
            yield f"stages.{index}.name is {stage.name!r}, an earlier stage's name. Give each its own."
        names.add(stage.name)
        if stage.data.cache is not None and not recipe.model.has_world:
            yield f"stages.{index}.data.cache holds world features, and world_fusion is none. Leave one of them out."
        for field, part, name in (
            ("cache", "world_encoder", "world encoder"),
            ("vision_cache", "vision_tower", "vision tower"),
        ):
            if getattr(stage.data, field) is None:
                continue
            changing = next((place for place in range(index + 1) if part in recipe.stages[place].parts), None)
            if changing is not None:
                which = "this stage" if changing == index else f"stage {recipe.stages[changing].name} before it"
                yield (
                    f"stages.{index}.data.{field} holds features of the {name}, which {which} changes. "
                    f"Leave out the cache, or the part {part}."
                )


def _parts(recipe: "Recipe") -> Iterator[str]:
    for index, stage in enumerate(recipe.stages):
        parts = f"stages.{index}.parts"
        if recipe.model.has_world and "world_projector" not in stage.parts:
            yield f"{parts} has no world_projector. Add it: it is new, and always trained."
        for part in ("world_projector", "world_encoder"):
            if not recipe.model.has_world and part in stage.parts:
                yield f"{parts}.{part} is of the world branch, and world_fusion is none. Leave one of them out."


def _lora(recipe: "Recipe") -> Iterator[str]:
    """A part is trained one way in all stages: its own weights, or the same layers beside them."""
    first: dict[str, int] = {}
    for index, stage in enumerate(recipe.stages):
        for part, settings in stage.parts.items():
            if part == "world_projector" and settings.lora is not None:
                yield f"stages.{index}.parts.{part}.lora adapts weights that are new. Leave lora out: all are trained."
            earlier = first.setdefault(part, index)
            if settings.lora != recipe.stages[earlier].parts[part].lora:
                yield (
                    f"stages.{index}.parts.{part}.lora differs from stages.{earlier}.parts.{part}.lora. "
                    "Give a part the same in every stage that trains it, or make a second run with model.init_from."
                )


def _sources(recipe: "Recipe") -> Iterator[str]:
    for index, stage in enumerate(recipe.stages):
        sources = stage.data.sources
        if len(sources) == 1 and sources[0].weight != 1:
            yield f"stages.{index}.data.sources.0.weight is {sources[0].weight}, but there is one source. Leave it out."


def _optim(recipe: "Recipe") -> Iterator[str]:
    optim = recipe.optim
    all_parts = [settings for stage in recipe.stages for settings in stage.parts.values()]
    if optim.lr != _default(optim, "lr") and all(settings.lr is not None for settings in all_parts):
        yield f"optim.lr is {optim.lr}, but every part of every stage has its own. Leave it out."
    for stage in recipe.stages:
        if optim.warmup_steps >= stage.steps:
            yield (
                f"optim.warmup_steps is {optim.warmup_steps}, but stage {stage.name} has {stage.steps} steps. "
                "Use fewer: each stage warms up anew."
            )


def _eval(recipe: "Recipe") -> Iterator[str]:
    if recipe.eval is None:
        return
    if not any(stage.data.holdout for stage in recipe.stages):
        yield "eval is given, but no stage holds out data. Give data.holdout, or leave eval out."
    if recipe.eval.samples == 0 and recipe.eval.max_new_tokens != _default(recipe.eval, "max_new_tokens"):
        yield f"eval.max_new_tokens is {recipe.eval.max_new_tokens}, but eval.samples is 0. Leave one of them out."


def _default(section: BaseModel, field: str) -> object:
    return type(section).model_fields[field].default
