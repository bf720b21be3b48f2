"""Which benchmark, and what may be chosen about it."""

import re
from typing import Annotated, Literal, TypeAlias

import yaml
from pydantic import Field, TypeAdapter, ValidationError, field_validator

from theworld_train.errors import UsageError
from theworld_train.recipe import Settings
from theworld_train.recipe_errors import one_line
from theworld_train.recipe_yaml import load_yaml, yaml_problem

BlinkSubset = Literal[
    "Art_Style",
    "Counting",
    "Forensic_Detection",
    "Functional_Correspondence",
    "IQ_Test",
    "Jigsaw",
    "Multi-view_Reasoning",
    "Object_Localization",
    "Relative_Depth",
    "Relative_Reflectance",
    "Semantic_Correspondence",
    "Spatial_Relation",
    "Visual_Correspondence",
    "Visual_Similarity",
]


class BlinkTask(Settings):
    """BLINK: multiple choice about one to four pictures."""

    kind: Literal["blink"] = "blink"
    path: str = "BLINK-Benchmark/BLINK"
    """Hub id, or a folder with a folder of parquet files for each sub-task."""
    subsets: tuple[BlinkSubset, ...] = Field(default=("Relative_Depth", "Spatial_Relation"), min_length=1, strict=False)
    split: Literal["val", "test"] = "val"
    """The published answers of ``test`` are hidden."""

    @field_validator("subsets", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value


class VsrTask(Settings):
    """Visual Spatial Reasoning: is a statement about a picture true?"""

    kind: Literal["vsr"] = "vsr"
    variant: Literal["random", "zeroshot"] = "random"
    """How the data were split; ``zeroshot`` shares no concept between training and test."""
    path: str | None = None
    """Hub id, or a folder of the splits' JSONL files; default: the variant's published data set."""
    images: str
    """Folder of COCO's pictures."""
    split: Literal["validation", "test"] = "test"


class SpatialRgptTask(Settings):
    """SpatialRGPT-Bench: relations, sizes, distances and directions of regions of a picture."""

    kind: Literal["spatial-rgpt"] = "spatial-rgpt"
    path: str = "a8cheng/SpatialRGPT-Bench"
    """Hub id, a parquet file or folder of such, or a folder with ``SpatialRGPT-Bench_v1.json``."""
    images: str | None = None
    """Folder of the pictures, where the rows do not hold them."""
    split: str = "val"
    """Of a hub id."""
    draw_boxes: bool = True
    """Draw the regions' boxes, with their names, on the pictures; without, no model can know which they are."""


class MicroWorldTask(Settings):
    """The micro-world: clips of moving objects, made here."""

    kind: Literal["micro-world"] = "micro-world"
    split: Literal["val", "test", "test-extrapolation"] = "test"
    families: tuple[str, ...] = Field(default=(), strict=False)
    """``direction/free`` and the like, or ``direction`` for that question about any scene; default: all."""
    level: Literal["easy", "medium", "hard"] = "easy"
    groups: int = Field(default=50, ge=1)
    """Matched groups of clips for each family."""
    size: int = Field(default=96, ge=32)
    """Side of a frame in pixels."""
    seed: int = Field(default=0, ge=0)


# A further benchmark joins here with its settings, in ``open_task`` with its class, and in docs/tasks.md with its row.
AnyTask: TypeAlias = Annotated[BlinkTask | VsrTask | SpatialRgptTask | MicroWorldTask, Field(discriminator="kind")]


def task_settings(text: str) -> AnyTask:
    """Settings from ``kind`` or ``kind:key=value,key=value``; values are YAML, so ``subsets=[A,B]`` is a list.

    Raises:
        UsageError: the kind or a key is unknown, or a value is wrong.
    """
    kind, _, options = text.partition(":")
    raw: dict[str, object] = {"kind": kind.strip()}
    for option in re.split(r",(?![^\[\]]*\])", options) if options.strip() else ():
        key, equals, value = option.partition("=")
        key = key.strip()
        if not equals or not key:
            raise UsageError(f"the task {text!r}: {option!r} has no value. Write kind:key=value,key=value.")
        if key in raw:
            raise UsageError(f"the task {text!r}: {key} is given twice. Give it once.")
        try:
            raw[key] = load_yaml(value)
        except yaml.YAMLError as error:
            raise UsageError(f"the task {text!r}: the value of {key} is no YAML ({yaml_problem(error)}).") from error
    try:
        return TypeAdapter(AnyTask).validate_python(raw)
    except ValidationError as error:
        raise UsageError(f"the task {text!r}: {one_line(error, raw, AnyTask)}") from error
