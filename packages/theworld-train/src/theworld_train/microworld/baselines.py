"""What can be had without watching: the question's text alone, or one frame of the clip.

A family about motion is only worth asking where the last frame and the text score chance. So a classifier is trained on
the split ``train`` for each text, and scored on ``val``; the splits for testing are never looked at. Families about a
single frame are the control: there the same classifier has to succeed.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from theworld_train.evaluate.statistics import Accuracy, accuracy
from theworld_train.jobs import Report
from theworld_train.microworld.draw import draw
from theworld_train.microworld.stage import StagedClip, families, stage

FRAMES = {"last": -1, "first": 0, "middle": 4}
"""Of nine. Only the last must say nothing: it is all that a model without world tokens sees."""

_SIZE = 48
_ABOVE = 0.2
"""How far above chance the last frame has to be, at least, in a family that one frame answers."""


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """What each way of not watching scores in a family, on the split ``val``."""

    family: str
    motion: bool
    text: Accuracy
    last: Accuracy
    first: Accuracy
    middle: Accuracy

    @property
    def problem(self) -> str | None:
        """What is wrong with the family, or nothing."""
        for name, score in (("text", self.text), ("last frame", self.last)):
            low, high = score.interval()
            blind = name == "text" or self.motion
            if blind and not low <= score.chance <= high:
                return f"the {name} alone gives {score.value:.0%} where chance is {score.chance:.0%}"
            if not blind and low < score.chance + _ABOVE:
                return f"the {name} gives only {score.value:.0%} where it holds the answer"
        return None


def baselines(
    names: Sequence[str] = (),
    *,
    level: str = "easy",
    seed: int = 0,
    train_groups: int = 60,
    val_groups: int = 40,
    report: Report,
) -> list[Baseline]:
    """The baselines of some families, see ``stage.families``; of all by default.

    Raises:
        ValueError: there is no such family or level, or too few groups to learn from.
    """
    if min(train_groups, val_groups) < 8:
        raise ValueError(f"there are {min(train_groups, val_groups)} groups to learn or score. Use 8 or more.")
    every, found = families(tuple(names)), []
    for number, family in enumerate(every):
        report(number, len(every), family)
        made = {
            split: [clip for index in range(groups) for clip in stage(split, family, index, level=level, seed=seed)]
            for split, groups in (("train", train_groups), ("val", val_groups))
        }
        scores = {name: _score(_seen(made["train"], made["val"], frame)) for name, frame in FRAMES.items()}
        motion = made["val"][0].question.motion
        found.append(Baseline(family=family, motion=motion, text=_score(_told(**made)), **scores))
    report(len(every), len(every))
    return found


Guesses = list[tuple[StagedClip, str]]


def _told(train: Sequence[StagedClip], val: Sequence[StagedClip]) -> Guesses:
    """The commonest answer to each text."""
    counts = _by_text(train)
    commonest = {text: Counter(clip.question.answer for clip in clips).most_common(1)[0][0] for text, clips in counts}
    return [(clip, commonest.get(clip.question.text, "")) for clip in val]


def _seen(train: Sequence[StagedClip], val: Sequence[StagedClip], frame: int) -> Guesses:
    """A logistic regression for each text, on the pixels of one frame as it is and with its things in the middle."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    guesses, asked = [], dict(_by_text(val))
    for text, clips in _by_text(train):
        if text not in asked:
            continue
        model = make_pipeline(StandardScaler(), LogisticRegression(C=1e-3, max_iter=300))
        model.fit(_features(clips, frame), [clip.question.answer for clip in clips])
        guesses += zip(asked[text], model.predict(_features(asked[text], frame)), strict=True)
    return guesses


def _by_text(clips: Sequence[StagedClip]) -> list[tuple[str, list[StagedClip]]]:
    found: dict[str, list[StagedClip]] = {}
    for clip in clips:
        found.setdefault(clip.question.text, []).append(clip)
    return list(found.items())


def _score(guesses: Guesses) -> Accuracy:
    return accuracy((guess == clip.question.answer, 1 / len(clip.question.choices)) for clip, guess in guesses)


def _features(clips: Sequence[StagedClip], frame: int) -> np.ndarray:
    return np.stack([_pixels(draw(clip.scenes[frame], size=_SIZE)) for clip in clips])


def _pixels(image: Image.Image) -> np.ndarray:
    """Colours of 24 by 24 cells, of the frame and of the frame moved so that what stands out is in its middle."""
    frame = np.asarray(image).astype(np.float32)
    inner = frame[2:-2, 2:-2]  # without the walls
    weight = np.abs(inner - np.median(inner, axis=(0, 1))).sum(axis=-1)
    y, x = np.mgrid[: len(weight), : len(weight)]
    total = weight.sum() + 1e-6
    shift = [round(float(_SIZE / 2 - 2 - (place * weight).sum() / total)) for place in (y, x)]
    views = np.stack([frame, np.roll(frame, shift, axis=(0, 1))])
    return views.reshape(2, 24, 2, 24, 2, 3).mean(axis=(2, 4)).ravel()
