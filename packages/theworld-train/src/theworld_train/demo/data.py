"""What the demo's models see: clips with their question, encoded once, and mixtures of them."""

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers.utils.logging import disable_progress_bar

from theworld_fusion import assemble
from theworld_fusion.testing import IMAGE_SIZE, TINY_WORLD
from theworld_train.data import Example
from theworld_train.data.features import with_world_features
from theworld_train.jobs import Report
from theworld_train.microworld import Clip, Question, generate

LOOK: dict[str, int] = {"num_frames": TINY_WORLD["num_frames"], "size": IMAGE_SIZE}
"""Of every clip."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A question about a clip, and what a model sees of it. It goes from process to process, so it holds no tensors."""

    question: Question
    group: int
    last_frame: Image.Image
    features: np.ndarray | None = None
    """The world encoder's output for the whole clip, ``[t', r, s, c]``."""

    def example(self) -> Example:
        """The question and its answer as a conversation; the last frame is its picture, the features are the clip's."""
        features = None if self.features is None else (torch.from_numpy(self.features),)
        return Example(messages=_messages(self.question, "image", self.last_frame), world_features=features)


def encode(
    report: Report, vlm: Path, world: Path, groups: Mapping[str, int], seed: int, *, stills: bool = False
) -> list[Asked]:
    """Make clips, ``groups`` of each family, and encode them; work for a process of its own.

    With ``stills``, single-frame questions come a second time, about a picture: the last frame, encoded alone.
    """
    disable_progress_bar()  # the models load in a blink
    clips = generate(groups_per_family=groups, seed=seed, **LOOK)
    items: list[tuple[Clip, str, Any]] = [(clip, "video", list(clip.frames)) for clip in clips]
    if stills:
        items += [(clip, "image", clip.frames[-1]) for clip in clips if not clip.questions[0].motion]
    model, processor = assemble(vlm, world, **TINY_WORLD)
    whole = [Example(messages=_messages(clip.questions[0], kind, item)) for clip, kind, item in items]
    encoded = with_world_features(whole, model.model.world_encoder, processor, threads=1)
    asked = []
    for (clip, _, _), example in zip(items, encoded, strict=True):
        asked += [_asked(clip, features.numpy()) for features in example.world_features or ()]
        report(len(asked), len(items))
    return asked


def pictures(groups: Mapping[str, int], seed: int) -> list[Asked]:
    """Single-frame questions about last frames; no clip is encoded."""
    return [_asked(clip) for clip in generate(groups_per_family=groups, seed=seed, **{**LOOK, "num_frames": 5})]


def by_family(asked: Iterable[Asked]) -> dict[str, list[Example]]:
    """Examples of each family, each made once."""
    families: dict[str, list[Example]] = {}
    for one in asked:
        families.setdefault(one.question.family, []).append(one.example())
    return families


def mixture(
    families: Mapping[str, Sequence[Example]], weights: Mapping[str, float], number: int, seed: int
) -> list[Example]:
    """``number`` examples, families in the proportion of ``weights``; within one, all come equally often, or nearly."""
    generator = random.Random(seed)
    rounds = {name: _rounds(families[name], generator) for name in weights}
    return [next(rounds[name]) for name in generator.choices(list(weights), list(weights.values()), k=number)]


def _rounds(examples: Sequence[Example], generator: random.Random) -> Iterator[Example]:
    while True:
        yield from generator.sample(examples, len(examples))


def _asked(clip: Clip, features: np.ndarray | None = None) -> Asked:
    return Asked(question=clip.questions[0], group=clip.group, last_frame=clip.frames[-1], features=features)


def _messages(question: Question, kind: str, item: Any) -> list[dict[str, Any]]:
    blocks = [{"type": kind, kind: item}, {"type": "text", "text": question.text}]
    return [{"role": "user", "content": blocks}, {"role": "assistant", "content": question.answer}]
