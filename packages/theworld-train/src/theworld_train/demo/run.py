"""The demo: does a small model answer questions about motion with world tokens, and only with them?

A toy VLM first learns questions about pictures. From it, two models are trained on the same questions in the same
order: one with world tokens ("on"), one without ("off"). Every arm's image branch gets the identical last frame. On
held-out clips the "on" model is then asked again with its world input swapped: for that of another clip, and for noise.
"""

import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from theworld_fusion.testing import make_tiny_checkpoint
from theworld_train.demo.arms import Trained, pretrain, train_and_ask
from theworld_train.demo.data import LOOK, Asked, encode
from theworld_train.demo.report import table, write_report
from theworld_train.demo.result import ARMS, Answered, DemoResult
from theworld_train.demo.size import DemoSize
from theworld_train.folders import make_folder
from theworld_train.jobs import Jobs
from theworld_train.microworld import FRAME_FAMILIES, MOTION_FAMILIES, Clip, generate

_FAMILIES: tuple[str, ...] = MOTION_FAMILIES + FRAME_FAMILIES


def run_demo(
    out: Path, *, seed: int = 0, size: DemoSize | None = None, say: Callable[[str], None] = print
) -> DemoResult:
    """Run the demo, and leave in ``out`` a report, the records of every answer, and the trained checkpoint.

    It works in two more processes, so a script that calls it needs ``if __name__ == "__main__":``.

    Args:
        seed: of clips, weights and batches. Pictures, training clips and held-out clips come from seeds of their own.
        say: takes each line for the user.

    Raises:
        UsageError: ``out`` cannot be written.
    """
    size = size or DemoSize()
    make_folder(out)
    result = _train_and_ask(seed, size, out / "model", say)
    say("\n" + table(result))
    say("\n" + _samples(result))
    with (out / "answers.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({**asdict(one), "correct": one.correct}) + "\n" for one in result.answered)
    write_report(result, out / "report.html")
    say(f"\nreport: {out / 'report.html'}    trained model: {out / 'model'}    ({result.seconds:.0f} s)")
    say(f'ask it: theworld answer --model {out / "model"} --image photo.jpg "What colour is it?"')
    return result


def _train_and_ask(seed: int, size: DemoSize, model: Path, say: Callable[[str], None]) -> DemoResult:
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch, Jobs(2) as jobs:
        say("1/2  making a toy Gemma 3 + Cosmos pair, teaching the VLM pictures, and making the micro-world")
        vlm, world = make_tiny_checkpoint(scratch, seed=seed)
        base = Path(scratch) / "base"
        learning = jobs.submit("the base VLM", pretrain, vlm, world, base, size, seed)
        encoding = jobs.submit("training clips", encode, vlm, world, size.training_groups, 3 * seed + 1, stills=True)
        asking = jobs.submit(
            "held-out clips", encode, vlm, world, dict.fromkeys(_FAMILIES, size.heldout_groups), 3 * seed + 2
        )
        training, heldout = encoding.result(), asking.result()
        losses = {"base": learning.result()}
        say(f"2/2  training with the world on and off, on {len(training)} items; asking about {len(heldout)} others")
        on = jobs.submit("world on", train_and_ask, "on", base, world, training, heldout, size, seed, model)
        off = jobs.submit("world off", train_and_ask, "off", base, world, training, heldout, size, seed)
        trained = {"on": on.result(), "off": off.result()}
    return DemoResult(
        seed=seed,
        seconds=time.monotonic() - started,
        losses={**losses, **{f"world {name}": one.losses for name, one in trained.items()}},
        answered=_answered(trained, heldout),
        shown=_first_clips(heldout, 3 * seed + 2),
        num_pictures=len(losses["base"]) * size.batch_size,
        num_training=len(training),
        num_heldout=len(heldout),
        size=size,
    )


def _answered(trained: Mapping[str, Trained], heldout: Sequence[Asked]) -> list[Answered]:
    answers = {arm: texts for one in trained.values() for arm, texts in one.answers.items()}
    return [
        Answered(
            arm=arm,
            clip=index,
            family=one.question.family,
            motion=one.question.motion,
            question=one.question.text,
            wanted=one.question.answer,
            answered=text,
            chance=1 / len(one.question.choices),
        )
        for arm in ARMS
        for index, (one, text) in enumerate(zip(heldout, answers[arm], strict=True))
    ]


def _first_clips(heldout: Sequence[Asked], seed: int) -> dict[int, Clip]:
    """The clips of each family's first group, made again: frames did not travel between the processes."""
    clips = iter(generate(groups_per_family=1, seed=seed, **LOOK))
    firsts: dict[str, int] = {}
    for one in heldout:
        firsts.setdefault(one.question.family, one.group)
    return {index: next(clips) for index, one in enumerate(heldout) if firsts[one.question.family] == one.group}


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
