"""What is done to world features before they are projected: taken away region by region, shuffled, swapped.

Letters: ``t`` feature frames, ``r s`` rows and columns, ``c`` width.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from theworld_encoders.controls import SEED
from theworld_train.data import Example
from theworld_train.evaluate.controls import noise, other_item
from theworld_train.evaluate.sensitivity.likelihood import Features

Fill = Literal["mean", "zeros"]


def shuffled(features: Float[Tensor, "t r s c"]) -> Float[Tensor, "t r s c"]:
    """The places of every frame in another order, one fixed order for all, as the control ``shuffled-slots`` has it."""
    rows, columns = features.shape[1:3]
    order = torch.randperm(rows * columns, generator=torch.Generator().manual_seed(SEED))
    places = rearrange(features, "t r s c -> t (r s) c")[:, order.to(features.device)]
    return rearrange(places, "t (r s) c -> t r s c", r=rows)


def others(examples: Sequence[Example], *, seed: int) -> list[Features | None]:
    """Features of an example of another group for each, of the same shapes, so that prompts stay as they are.

    ``None`` where there is no such example.
    """
    found: list[Features | None] = [None] * len(examples)
    by_shape: dict[tuple[torch.Size, ...], list[int]] = {}
    for place, example in enumerate(examples):
        by_shape.setdefault(tuple(item.shape for item in example.world_features or ()), []).append(place)
    for places in by_shape.values():
        groups = {name: number for number, name in enumerate(dict.fromkeys(_group(examples[at]) for at in places))}
        if len(groups) > 1:
            alike = [examples[place] for place in places]
            swapped = other_item(alike, [groups[_group(one)] for one in alike], seed=seed)
            for place, one in zip(places, swapped, strict=True):
                found[place] = one.world_features
    return found


def noises(examples: Sequence[Example], *, seed: int) -> list[Features]:
    """Gaussian noise for each, of all examples' mean and deviation in each channel, where they share a width."""
    plain = [replace(example, messages=[]) for example in examples]
    return [one.world_features or () for one in noise(plain, seed=seed)]


def regions(rows: int, columns: int, cells: int) -> Iterator[tuple[int, int, slice, slice]]:
    """Cells of a grid over ``rows`` x ``columns`` places, at most ``cells`` along each side: where it stands, and what
    of the grid it covers. Each place is in exactly one."""
    down, across = min(cells, rows), min(cells, columns)
    for row in range(down):
        for column in range(across):
            yield row, column, _part(row, down, rows), _part(column, across, columns)


def without_region(
    features: Float[Tensor, "t r s c"], rows: slice, columns: slice, fill: Fill
) -> Float[Tensor, "t r s c"]:
    """One region of all frames replaced: by each frame's own mean over its places, which says nothing of a place, or by
    zeros."""
    changed = features.clone()
    changed[:, rows, columns] = features.mean(dim=(1, 2), keepdim=True) if fill == "mean" else 0
    return changed


def _part(number: int, of: int, size: int) -> slice:
    return slice(number * size // of, (number + 1) * size // of)


def _group(example: Example) -> str:
    return example.group or example.key
