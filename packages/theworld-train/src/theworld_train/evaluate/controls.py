"""Swaps of the world input at test time: the model, the prompt and the picture stay as they are.

They are called as the encoders' controls are (``theworld_encoders.controls``), and swap features that were computed
before, across a whole data set: the other item comes from another group, and noise has the data set's own scale. A
control that is trained with, or that changes pixels, is an encoder.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch

from theworld_train.data import Example


def other_item(examples: Sequence[Example], groups: Sequence[int], *, seed: int) -> list[Example]:
    """Every example with the world features of another one, drawn from other groups than its own.

    Args:
        groups: the group of each example.

    Raises:
        ValueError: an example has no features, or there is only one group.
    """
    if len(set(groups)) < 2:
        raise ValueError(f"there is {len(set(groups))} group, so no clip of another one. Give at least 2 groups.")
    generator = torch.Generator().manual_seed(seed)
    swapped = []
    for example, group in zip(examples, groups, strict=True):
        other = int(torch.randint(len(examples), (), generator=generator))
        while groups[other] == group:
            other = (other + 1) % len(examples)
        swapped.append(replace(example, world_features=_features(examples[other])))
    return swapped


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
