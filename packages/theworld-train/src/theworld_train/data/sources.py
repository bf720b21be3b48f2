"""Every kind of source that a recipe may name, opened."""

from pathlib import Path

from theworld_encoders import FeatureCache
from theworld_train.data.chat import open_chat
from theworld_train.data.datacomp import open_datacomp
from theworld_train.data.llava_cc3m import open_llava_cc3m
from theworld_train.data.micro_world import open_micro_world
from theworld_train.data.source import OpenSource
from theworld_train.data.spatial_rgpt import open_spatial_rgpt
from theworld_train.data.vsr import open_vsr
from theworld_train.errors import UsageError
from theworld_train.recipe import (
    AnySource,
    ChatSource,
    DataCompSource,
    DataSettings,
    LlavaCc3mSource,
    MicroWorldSource,
    Recipe,
    SpatialRgptSource,
    VsrSource,
)


def check_folders(recipe: Recipe) -> None:
    """See before training that the folders of pictures and features are there, those of later stages too.

    Without its pictures every row of a source is broken: a recipe that skips such would train on the others alone.

    Raises:
        UsageError: one is no folder.
    """
    for number, stage in enumerate(recipe.stages):
        data = f"stages.{number}.data"
        fill = "Fill it with `theworld cache build{}`, or leave it out."
        folders = [
            (f"{data}.cache", stage.data.cache, fill.format("")),
            (f"{data}.vision_cache", stage.data.vision_cache, fill.format(" --recipe")),
        ]
        for place, source in enumerate(stage.data.sources):
            if isinstance(source, VsrSource | SpatialRgptSource):
                folders.append((f"{data}.sources.{place}.images", source.images, "Put the pictures there, or name it."))
        for field, folder, remedy in folders:
            if folder is not None and not Path(folder).is_dir():
                raise UsageError(f"{field} is {folder}, which is no folder here. {remedy}")


def check_caches(stage: int, data: DataSettings, *, encoder_key: str | None, vision_key: str | None) -> None:
    """See that a stage's caches were made with its model.

    Raises:
        UsageError: one has no features of the tower with this key, so that every batch would be made of pixels.
    """
    for field, folder, key in (("cache", data.cache, encoder_key), ("vision_cache", data.vision_cache, vision_key)):
        if folder is None or key is None:
            continue
        cache = FeatureCache(folder, key)
        if not len(cache):
            others = f"those of {', '.join(sorted(cache.others))}" if cache.others else "none at all"
            raise UsageError(
                f"stages.{stage}.data.{field} is {folder}, which has no features of {key}, but {others}: they depend "
                "on weights, number type and settings. Fill it with `theworld cache build --recipe`, or leave it out."
            )


def open_source(source: AnySource, *, num_frames: int) -> OpenSource:
    """The source's rows, and how they become examples.

    Args:
        num_frames: of clips that are made here.

    Raises:
        UsageError: there is nothing that can be opened.
    """
    match source:
        case ChatSource():
            return open_chat(source)
        case DataCompSource():
            return open_datacomp(source)
        case LlavaCc3mSource():
            return open_llava_cc3m(source)
        case VsrSource():
            return open_vsr(source)
        case SpatialRgptSource():
            return open_spatial_rgpt(source)
        case MicroWorldSource():
            return open_micro_world(source, num_frames)
