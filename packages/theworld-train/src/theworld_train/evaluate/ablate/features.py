"""World features of a plan's training data, computed once for all seeds of an arm.

For ``other-item`` the cache holds, under each item's key, what the encoder makes of its partner from another group: a
control that sees one batch at a time could not keep matched clips apart.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
from transformers.utils.logging import disable_progress_bar

from theworld_encoders import FeatureCache
from theworld_train.data.cursor import numbered
from theworld_train.data.example import Example, digest
from theworld_train.data.lazy import sources_of
from theworld_train.data.sources import open_source
from theworld_train.errors import UsageError
from theworld_train.evaluate.ablate.arms import Arm
from theworld_train.evaluate.arms import OTHER_ITEM, groups_of
from theworld_train.evaluate.controls import partners
from theworld_train.jobs import Report
from theworld_train.pair import make_pair
from theworld_train.recipe import Recipe
from theworld_train.recipe_checks import TINY

_FOLDER, _OTHERS = "features", "features-other-item"


def is_cached(arm: Arm) -> bool:
    """Whether its encoder never changes: registers learn, and nothing is encoded with the world off."""
    parts = {part for stage in arm.recipe.stages for part in stage.parts}
    return arm.world not in ("off", "registers") and "world_encoder" not in parts and arm.recipe.model.vlm != TINY


def cache_folder(arm: Arm, out: Path) -> Path:
    """Where its features are; those of partners lie apart from an encoder's own."""
    return out / (_OTHERS if arm.world == OTHER_ITEM else _FOLDER)


def with_cache(arm: Arm, out: Path) -> Recipe:
    """Its recipe, with its features where they are cached."""
    if not is_cached(arm):
        return arm.recipe
    folder = str(cache_folder(arm, out))
    stages = tuple(
        stage.model_copy(update={"data": stage.data.model_copy(update={"cache": folder})})
        for stage in arm.recipe.stages
    )
    return arm.recipe.model_copy(update={"stages": stages})


def features_key(arm: Arm) -> str:
    """What an arm shares with others that have the same features."""
    model = arm.recipe.model.model_dump(mode="json", exclude={"config": {"world_projector", "world_fusion"}})
    return digest(model, [stage.data.model_dump(mode="json", include={"sources"}) for stage in arm.recipe.stages])


def fill_cache(report: Report, arm: Arm, out: Path) -> None:
    """Encode every item of the arm's data, unless that is done.

    Raises:
        UsageError: a source is a stream, or an item has no partner.
    """
    folder = cache_folder(arm, out)
    done = folder / f"{features_key(arm)}.json"
    if done.is_file():
        return
    disable_progress_bar()
    folder.mkdir(parents=True, exist_ok=True)
    model, processor = make_pair(arm.recipe, out)
    encoder: Any = model.model.world_encoder.freeze()
    rows = list(_rows(arm.recipe, processor.world_num_frames))
    with FeatureCache(folder, encoder) as cache:
        if arm.world == OTHER_ITEM:
            with FeatureCache(folder, encoder.wrapped) as own:
                _fill_with_partners(report, rows, cache, own, processor.world_num_frames)
        else:
            for number, example in enumerate(rows):
                cache.features(sources_of(example.messages, processor.world_num_frames))
                report(number + 1, len(rows), f"features, {arm.name}")
    done.write_text(json.dumps({"items": len(cache), "encoder": cache.encoder_key}), encoding="utf-8")


def _fill_with_partners(
    report: Report, rows: list[Example], cache: FeatureCache, own: FeatureCache, num_frames: int
) -> None:
    groups, kinds, keys = list[str](), list[Any](), list[list[tuple[str, str]]]()
    for number, example in enumerate(rows):
        sources = sources_of(example.messages, num_frames)
        kinds.append(tuple(tuple(one.shape) for one in own.features(sources)))
        keys.append([(cache.key(source), own.key(source)) for source in sources])
        groups.append(example.group)
        report(number + 1, len(rows), f"features, {OTHER_ITEM}")
    try:
        others = partners(groups_of([row.key for row in rows], groups), seed=0, kinds=kinds)
    except ValueError as error:
        raise UsageError(f"{OTHER_ITEM}: {error}") from error
    for mine, other in zip(keys, others, strict=True):
        for (key, _), (_, of_other) in zip(mine, keys[other], strict=True):
            features = own.get(of_other)
            if features is not None and key not in cache:
                cache.put(key, features)


def _rows(recipe: Recipe, num_frames: int) -> Iterator[Example]:
    """Every row that some stage may show, once."""
    seen = set[str]()
    for source in {
        source.model_dump_json(): source for stage in recipe.stages for source in stage.data.sources
    }.values():
        opened = open_source(source, num_frames=num_frames)
        if isinstance(opened.rows, datasets.IterableDataset):
            raise UsageError(f"{opened.name} is a stream, whose features are not kept. Give stream: false.")
        for number in range(opened.number_of_rows):
            example = numbered(opened, number).example()
            if example.key not in seen:
                seen.add(example.key)
                yield example
