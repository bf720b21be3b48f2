"""What was found about a model's world input: by example, and summed up with intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from theworld_train.evaluate.clusters import interval, resample, sums

CHANGES = {
    "unchanged": "the same features again: exactly 0, or the figures below mean nothing",
    "removed": "no world tokens at all: the base VLM's prompt",
    "shuffled": "the places of every frame in another, fixed order",
    "other-item": "the features of another example",
    "noise": "Gaussian noise of the features' mean and deviation in each channel",
}
"""In the order of the table, each with what the model gets."""

STILL = 0.01
"""Mean change, either way, in nats, below which answers do not move: a hundredth changes a probability by 1 %."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Map:
    """What each region of an item's world features is worth.

    Attributes:
        item: which one of the conversation.
        drops: ``[rows, columns]``, by how many nats the answer's log-probability falls without the region.
        picture: the last frame, as the encoder sees it; it is not in the JSON.
    """

    item: int
    drops: list[list[float]]
    picture: Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """One example.

    Attributes:
        answer: whose likelihood is measured.
        tokens: that it has, its end-of-turn included.
        log_probability: in nats, with the world on.
        changes: by name of ``CHANGES``, log-probability after the change less before; what could not be done is left
            out.
        attention: ``[layers, kinds]``, of ``attention.KINDS``; empty where it was not asked for.
        shares: of visible tokens, by kind.
    """

    key: str
    group: str
    question: str
    answer: str
    tokens: int
    log_probability: float
    changes: Mapping[str, float]
    maps: Sequence[Map] = ()
    attention: Sequence[Sequence[float]] = ()
    shares: Sequence[float] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Effect:
    """Of one change on all answers, in nats.

    Attributes:
        mean: change of the log-probability; negative where answers became less likely.
        low, high: its 95 % interval, by resampling groups; none for a single group.
        size: mean of the change either way.
        answers, groups: how many.
    """

    mean: float
    low: float | None
    high: float | None
    size: float
    answers: int
    groups: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Sensitivity:
    """Everything that was found.

    Attributes:
        fusion: the model's ``world_fusion``.
        fill: what replaced regions.
        own_answers: whether answers are the model's own, not given ones.
        left_out: examples that show nothing.
    """

    model: str
    fusion: str
    fill: str
    own_answers: bool
    left_out: int
    seed: int
    examples: Sequence[Measured]

    def effects(self) -> dict[str, Effect]:
        """Of each change that could be made."""
        found = {}
        for name in CHANGES:
            having = [one for one in self.examples if name in one.changes]
            if having:
                found[name] = _effect([one.changes[name] for one in having], [one.group for one in having], self.seed)
        return found


def verdict(effects: Mapping[str, Effect], *, own: bool) -> str:
    """The sentence that matters: whether answers move when the world input goes."""
    one = effects["removed"]
    whose = "own answers" if own else "answers"
    within = "" if one.low is None else f" [{one.low:.3f}, {one.high:.3f}]"
    figures = f"{one.mean:+.3f} nats{within} on average, {one.size:.3f} either way, over {_count(one)}"
    if one.size < STILL:
        return f"The likelihood of the model's {whose} does not move when its world input is removed: {figures}."
    if one.low is None or one.high is None:
        meaning = "one group says nothing of others"
    elif one.high < 0:
        meaning = "the answers become less likely, so the world input speaks for them"
    elif one.low > 0:
        meaning = "the answers become more likely, so the world input speaks against them"
    else:
        meaning = "some rise and some fall, and the mean cannot be told from 0"
    return f"The likelihood of the model's {whose} moves when its world input is removed: {figures}; {meaning}."


def mean_attention(result: Sensitivity) -> tuple[np.ndarray, np.ndarray] | None:
    """Mass ``[layers, kinds]`` and shares of tokens ``[kinds]``, means over the examples; none where it was not
    asked for."""
    having = [one for one in result.examples if one.attention]
    if not having:
        return None
    return np.mean([one.attention for one in having], axis=0), np.mean([one.shares for one in having], axis=0)


def _effect(values: Sequence[float], groups: Sequence[str], seed: int) -> Effect:
    member, counts = resample(groups, seed=seed)
    low = high = None
    if counts.shape[1] > 1:
        changes, ones = np.asarray(values), np.ones(len(values))
        low, high = interval(sums(changes, member, counts) / sums(ones, member, counts))
    return Effect(
        mean=float(np.mean(values)),
        low=low,
        high=high,
        size=float(np.mean(np.abs(values))),
        answers=len(values),
        groups=counts.shape[1],
    )


def _count(effect: Effect) -> str:
    answers = "1 answer" if effect.answers == 1 else f"{effect.answers} answers"
    return answers if effect.groups == effect.answers else f"{answers} in {effect.groups} groups"
