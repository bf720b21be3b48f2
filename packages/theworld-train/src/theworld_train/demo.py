"""The demo: does a small model answer questions about motion with world tokens, and only with them?

Two models start from the same weights and see the same questions in the same order: one with world tokens ("on"), one
without ("off"). Every arm's image branch gets the identical last frame. On held-out clips the "on" model is then asked
again with its world input swapped: for that of another clip, and for noise.
"""

import json
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeVar

import torch
from rich.progress import track
from transformers import set_seed

from theworld_fusion import TheWorldForConditionalGeneration, TheWorldProcessor, assemble
from theworld_fusion.testing import IMAGE_SIZE, TINY_WORLD, make_tiny_checkpoint
from theworld_train.data import Collator, Example
from theworld_train.data.features import with_world_features
from theworld_train.evaluate.answers import choose
from theworld_train.evaluate.controls import noise, other_item
from theworld_train.evaluate.statistics import Accuracy, accuracy
from theworld_train.microworld import Clip, generate
from theworld_train.trainer import TrainSettings, train

T = TypeVar("T")

TRAINING_GROUPS = {
    "direction": 160,
    "next": 160,
    "faster": 120,
    "collide": 120,
    "colour": 100,
    "count": 180,
    "shape": 220,
}
"""By family."""

FIRST = ("direction", "next")
"""Families of the first stage of training."""

ARMS = ("on", "off", "other clip", "noise")
"""In the order of the table. The first two are trained apart, the others are swaps at test time."""


@dataclass(frozen=True, kw_only=True)
class Answered:
    """One held-out question, and what one arm answered."""

    arm: str
    clip: int
    family: str
    motion: bool
    question: str
    wanted: str
    answered: str
    chance: float

    @property
    def correct(self) -> bool:
        return self.answered == self.wanted


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """Everything the report shows."""

    seed: int
    seconds: float
    clips: list[Clip]
    """Held-out clips; ``Answered.clip`` counts from their start."""
    losses: dict[str, list[float]]
    answered: list[Answered]
    num_training: int
    size: "DemoSize"

    def score(self, arm: str, select: Callable[[Answered], bool]) -> Accuracy:
        """Accuracy of one arm over the selected questions."""
        return accuracy((one.correct, one.chance) for one in self.answered if one.arm == arm and select(one))


@dataclass(frozen=True, kw_only=True)
class DemoSize:
    """How much of everything; the defaults fit six minutes on two CPU cores."""

    training_groups: Mapping[str, int] = field(default_factory=lambda: TRAINING_GROUPS)
    """Groups of clips by family; a group has a clip for each answer."""
    heldout_groups: int = 50
    """Groups of each family: 600 questions about motion and 500 about single frames, for each arm."""
    steps: tuple[int, int] = (300, 650)
    """Of the two stages: first the questions about one moving object alone, then all questions. A mixture from the
    start learns the same, later: four fifths of its gradient say nothing about motion."""
    batch_size: int = 32
    learning_rate: float = 2e-3


def run_demo(
    out: Path, *, seed: int = 0, size: DemoSize | None = None, say: Callable[[str], None] = print
) -> DemoResult:
    """Run the demo, and leave in ``out`` a report, the records of every answer, and the trained checkpoint.

    Args:
        seed: of clips, weights and batches. Held-out clips come from seeds that no training clips come from.
        say: takes each line for the user.
    """
    from theworld_train.report import table, write_report

    size, started = size or DemoSize(), time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # threads inside such small operations cost more than they give
    try:
        result, model, processor = _train_and_ask(seed, size, say, started)
    finally:
        torch.set_num_threads(threads)
    say("\n" + table(result))
    say("\n" + _samples(result))
    with (out / "answers.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({**asdict(one), "correct": one.correct}) + "\n" for one in result.answered)
    model.save_pretrained(out / "model")
    processor.save_pretrained(out / "model")
    write_report(result, out / "report.html")
    say(f"\nreport: {out / 'report.html'}    trained model: {out / 'model'}    ({result.seconds:.0f} s)")
    say(f'ask it: theworld answer --model {out / "model"} --image photo.jpg "What colour is it?"')
    return result


def _train_and_ask(
    seed: int, size: DemoSize, say: Callable[[str], None], started: float
) -> tuple[DemoResult, TheWorldForConditionalGeneration, TheWorldProcessor]:
    say("making the micro-world and a toy Gemma 3 + Cosmos pair")
    look = {"num_frames": TINY_WORLD["num_frames"], "size": IMAGE_SIZE}
    training = generate(groups_per_family=size.training_groups, seed=2 * seed, **look)
    heldout = generate(groups_per_family=size.heldout_groups, seed=2 * seed + 1, **look)
    with tempfile.TemporaryDirectory() as scratch:
        folders = make_tiny_checkpoint(scratch, seed=seed)

        def assemble_pair() -> tuple[TheWorldForConditionalGeneration, TheWorldProcessor]:
            set_seed(seed)  # the projector is new in each: the same in both
            return assemble(*folders, **TINY_WORLD)

        on, processor = assemble_pair()
        off, _ = assemble_pair()
        encoded = with_world_features(
            [_example(clip) for clip in training + heldout], on.model.world_encoder, processor
        )
        examples = list(_bar(encoded, "encoding clips", len(training) + len(heldout)))
        known, unknown = examples[: len(training)], examples[len(training) :]
        easy = [example for example, clip in zip(known, training, strict=True) if clip.questions[0].family in FIRST]
        losses: dict[str, list[float]] = {"on": [], "off": []}
        for arm, model in (("on", on), ("off", off)):
            for stage, (shown, steps) in enumerate(zip((easy, known), size.steps, strict=True), start=1):
                losses[arm] += train(
                    model,
                    shown,
                    Collator(processor, world="on" if arm == "on" else "off"),
                    TrainSettings(steps=steps, batch_size=size.batch_size, learning_rate=size.learning_rate, seed=seed),
                    folder=Path(scratch),
                    label=f"training, {arm:<3} {stage}/2",
                )
    groups = [clip.group for clip in heldout]
    choices = [clip.questions[0].choices for clip in heldout]
    arms = {
        "on": choose(on, processor, unknown, choices),
        "off": choose(off, processor, unknown, choices, world="off"),
        "other clip": choose(on, processor, other_item(unknown, groups, seed=seed), choices),
        "noise": choose(on, processor, noise(unknown, seed=seed), choices),
    }
    answered = [
        _answered(arm, index, clip, text)
        for arm, texts in arms.items()
        for index, (clip, text) in enumerate(zip(heldout, _bar(texts, f"asking, {arm}", len(heldout)), strict=True))
    ]
    result = DemoResult(
        seed=seed,
        seconds=time.monotonic() - started,
        clips=heldout,
        losses=losses,
        answered=answered,
        num_training=len(training),
        size=size,
    )
    return result, on, processor


def _example(clip: Clip) -> Example:
    question = clip.questions[0]
    blocks = [{"type": "video", "video": list(clip.frames)}, {"type": "text", "text": question.text}]
    return Example(messages=[{"role": "user", "content": blocks}, {"role": "assistant", "content": question.answer}])


def _answered(arm: str, index: int, clip: Clip, text: str) -> Answered:
    question = clip.questions[0]
    return Answered(
        arm=arm,
        clip=index,
        family=question.family,
        motion=question.motion,
        question=question.text,
        wanted=question.answer,
        answered=text,
        chance=1 / len(question.choices),
    )


def _samples(result: DemoResult) -> str:
    """What was answered about the first held-out clip of each family."""
    first: dict[str, int] = {}
    for one in result.answered:
        first.setdefault(one.family, one.clip)
    lines = []
    for clip in first.values():
        of_clip = {one.arm: one for one in result.answered if one.clip == clip}
        said = ", ".join(f"{arm}: {of_clip[arm].answered!r}" for arm in ("on", "off"))
        lines.append(f"{of_clip['on'].question}  truth: {of_clip['on'].wanted!r}, {said}")
    return "\n".join(lines)


def _bar(iterable: Iterable[T], label: str, total: int) -> Iterable[T]:
    return track(iterable, description=f"{label:<19}", total=total)
