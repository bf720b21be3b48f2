"""Swaps of the world input at test time: the model, the prompt and the picture stay as they are.

They are called as the encoders' controls are (``theworld_encoders.controls``). What is here looks at a whole data set:
the other item comes from another group, and noise has the scale of features that were computed before. A control that
looks at one item alone is an encoder; ``arms`` puts it into a model.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from theworld_train.data import Example


def partners(groups: Sequence[Any], *, seed: int, kinds: Sequence[Any] | None = None) -> list[int]:
    """For each item the number of another one, drawn from other groups than its own; the same on every call.

    The clips of a group differ in the answer alone: a partner from the same group would mislead, not withhold.

    Args:
        groups: the group of each item.
        kinds: of each item; partners are of one kind. Default: all are.

    Raises:
        ValueError: an item has nobody of its kind in another group.
    """
    kinds = [None] * len(groups) if kinds is None else kinds
    found: defaultdict[Any, set[Any]] = defaultdict(set)
    for group, kind in zip(groups, kinds, strict=True):
        found[kind].add(group)
    if alone := [kind for kind, of_kind in found.items() if len(of_kind) < 2]:
        what = "" if alone[0] is None else f" of the kind {alone[0]}"
        raise ValueError(f"there is 1 group{what}, so no clip of another one. Give at least 2 groups.")
    generator = torch.Generator().manual_seed(seed)
    drawn = []
    for group, kind in zip(groups, kinds, strict=True):
        other = int(torch.randint(len(groups), (), generator=generator))
        while groups[other] == group or kinds[other] != kind:
            other = (other + 1) % len(groups)
        drawn.append(other)
    return drawn


def other_item(examples: Sequence[Example], groups: Sequence[int], *, seed: int) -> list[Example]:
    """Every example with the world features of its partner; see ``partners``.

    Raises:
        ValueError: an example has no features, or there is only one group.
    """
    others = partners(groups, seed=seed)
    return [
        replace(example, world_features=_features(examples[other]))
        for example, other in zip(examples, others, strict=True)
    ]


def noise(examples: Sequence[Example], *, seed: int) -> list[Example]:
    """Every example with Gaussian noise as world features, of all examples' mean and deviation in each channel.

    Raises:
        ValueError: an example has no features.
    """
    features = torch.cat([item.flatten(0, -2) for example in examples for item in _features(example)])  # [n, c]
    deviation, mean = torch.std_mean(features, dim=0)
    generator = torch.Generator().manual_seed(seed)
    return [
        replace(
            example,
            world_features=tuple(
                torch.randn(item.shape, generator=generator) * deviation + mean for item in _features(example)
            ),
        )
        for example in examples
    ]


def _features(example: Example) -> tuple[torch.Tensor, ...]:
    if example.world_features is None:
        raise ValueError("an example has no world features to swap. Compute them first with with_world_features.")
    return example.world_features
