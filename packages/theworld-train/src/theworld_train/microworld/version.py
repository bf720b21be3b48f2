"""Which generator made a clip: a version that we count, and a fingerprint of what it really makes here."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from theworld_train.microworld.draw import draw
from theworld_train.microworld.scene import hidden_shares
from theworld_train.microworld.stage import StagedClip, families, stage

GENERATOR_VERSION = 1
"""Goes up with every change of a clip, a question or a truth, so that figures of two versions are never compared."""

_DIGITS = 3
"""Decimal places of positions that count: more would tell processors apart."""


def fingerprint(
    *,
    split: str,
    names: Sequence[str] = (),
    level: str = "easy",
    seed: int = 0,
    num_frames: int = 9,
    size: int = 96,
    **options: Any,
) -> str:
    """Digest of the version, of all options, and of the states, questions and last pictures of first groups.

    The same options give another digest where pymunk, NumPy or Pillow came to work differently.

    Args:
        names: families, as ``stage.families`` takes them.
        options: whatever else decides what is made, such as the number of groups.
    """
    every = families(tuple(names))
    given = {"split": split, "families": every, "level": level, "seed": seed, "num_frames": num_frames, "size": size}
    found = hashlib.sha256(json.dumps([GENERATOR_VERSION, given, options], sort_keys=True, default=list).encode())
    for family in every:
        for clip in stage(split, family, 0, seed=seed, level=level, num_frames=num_frames):
            found.update(json.dumps(states(clip), sort_keys=True).encode())
            found.update(json.dumps(asdict(clip.question)).encode())
            found.update(draw(clip.scenes[-1], size=size).tobytes())
    return found.hexdigest()


def states(clip: StagedClip) -> list[list[dict[str, Any]]]:
    """What is true of every object in every frame, as plain values, rounded."""
    return [
        [
            {name: _rounded(value) for name, value in asdict(body).items()} | {"hidden": round(share, _DIGITS)}
            for body, share in zip(scene.bodies, hidden_shares(scene), strict=True)
        ]
        for scene in clip.scenes
    ]


def _rounded(value: Any) -> Any:
    return round(value, _DIGITS) + 0.0 if isinstance(value, float) else value  # minus zero becomes zero
