"""Probing several encoders in one call, beside the baselines that say what a figure is worth."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from theworld_encoders import Encoder
from theworld_train.errors import UsageError
from theworld_train.evaluate.clusters import interval, resample
from theworld_train.evaluate.probe.data import PROBES, Probe, ProbeClip, Split, probe_clips
from theworld_train.evaluate.probe.features import (
    Reader,
    cut,
    encoder_reader,
    matrix,
    noise_reader,
    pixel_reader,
    zeros_reader,
)
from theworld_train.evaluate.probe.fit import fit, fit_permuted
from theworld_train.evaluate.probe.scores import Card, Row, Score, chance_of, measure
from theworld_train.jobs import Report

BASELINES: dict[str, Callable[[str], Reader]] = {
    "raw pixels": pixel_reader,
    "raw pixels, last frame": lambda name: pixel_reader(name, last=True),
    "noise features": noise_reader,
    "zero features": zeros_reader,
}
"""Shown beside every encoder."""

_PERMUTATIONS = 20


@dataclass(frozen=True, kw_only=True)
class ProbeSettings:
    """How much is read. ``width`` is what all features are cut to, so that wide encoders do not win by width."""

    groups: int = 64
    """Matched groups to fit on, of a family that counts once (see ``Probe.families``); half as many are tested on."""
    width: int = 128
    split: Split = "test"
    """That scores come from: choose layers and settings on ``val``, and leave ``test`` for the end."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises:
        UsageError: a number is too small.
        """
        for name, least in (("groups", 4), ("width", 1), ("seed", 0)):
            if (value := getattr(self, name)) < least:
                raise UsageError(f"{name} is {value}. Use {least} or more.")
        if self.split == "train":
            raise UsageError("split is 'train', which probes are fitted on. Use 'val' or 'test'.")


def run_probes(
    names: Sequence[str],
    load: Callable[[str], Encoder],
    *,
    cache: Path,
    settings: ProbeSettings | None = None,
    report: Callable[[str], Report] = lambda label: lambda done, total, note="": None,
) -> Card:
    """Probe every encoder and every baseline on the same clips.

    Args:
        load: gives an encoder of that name; it is called when its turn comes, and the encoder is dropped after it.
        cache: folder of features, which a second call finds there.
        report: makes a progress bar of a label.

    Raises:
        EncoderError: an encoder cannot be loaded, or cannot take these clips.
        UsageError: an encoder is there twice.
    """
    settings = settings or ProbeSettings()
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"{name} is there twice. Name each encoder once.")
    train = probe_clips("train", settings.groups, settings.seed)
    test = probe_clips(settings.split, max(4, settings.groups // 2), settings.seed)
    rows = [
        _probe(
            BASELINES[name](name) if name in BASELINES else encoder_reader(name, load(name)),
            train,
            test,
            name in BASELINES,
            cache,
            settings,
            report(name),
        )
        for name in (*names, *BASELINES)
    ]
    return Card(
        seed=settings.seed,
        split=settings.split,
        width=settings.width,
        train_clips={name: len(probe.places(train)) for name, probe in PROBES.items()},
        test_clips={name: len(probe.places(test)) for name, probe in PROBES.items()},
        rows=sorted(rows, key=lambda row: (row.baseline, 0.0 if row.baseline else -row.overall)),
    )


def _probe(
    reader: Reader,
    train: list[ProbeClip],
    test: list[ProbeClip],
    baseline: bool,
    cache: Path,
    settings: ProbeSettings,
    report: Report,
) -> Row:
    whole = matrix(reader, [*train, *test], str(cache), report)
    fitted, tested = cut(whole[: len(train)], whole[len(train) :], settings.width)
    scores, shares = dict[str, Score](), []
    for name, probe in PROBES.items():
        places = probe.places(train), probe.places(test)
        scores[name], draws = _score(
            probe,
            (fitted[places[0]], [train[place] for place in places[0]]),
            (tested[places[1]], [test[place] for place in places[1]]),
            settings.seed,
        )
        shares.append((draws - scores[name].chance) / (1 - scores[name].chance))
    overall = np.mean(shares, axis=0)
    low, high = interval(overall)
    return Row(
        name=reader.name,
        baseline=baseline,
        numbers=whole.shape[1],
        width=fitted.shape[1],
        scores=scores,
        overall=float(overall[0]),
        low=low,
        high=high,
    )


def _score(
    probe: Probe,
    train: tuple[np.ndarray, list[ProbeClip]],
    test: tuple[np.ndarray, list[ProbeClip]],
    seed: int,
) -> tuple[Score, np.ndarray]:
    """The score on test, and in every resampling of it."""
    targets, wanted = probe.targets(train[1]), probe.targets(test[1])
    model = fit(train[0], targets, [clip.staged.group for clip in train[1]])
    member, counts = resample([clip.staged.group for clip in test[1]], seed=seed)
    draws = measure(wanted, model.predict(test[0]), member, counts)
    permuted = [
        measure(wanted, fit_permuted(model, train[0], targets, seed=number).predict(test[0]), member, counts[:1])[0]
        for number in range(_PERMUTATIONS)
    ]
    low, high = interval(draws)
    score = Score(
        metric="accuracy" if probe.classes else "R2",
        value=float(draws[0]),
        low=low,
        high=high,
        chance=chance_of(wanted),
        permuted=float(np.mean(permuted)),
        permuted_high=float(np.quantile(permuted, 0.975)),
        clips=len(wanted),
        groups=counts.shape[1],
        penalty=float(model.alpha if not probe.classes else 1 / model.C),
    )
    return score, draws
