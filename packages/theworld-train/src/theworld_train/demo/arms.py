"""The demo's models: a base VLM that knows pictures, and from it one trained with world tokens and one without."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from transformers import Gemma3ForConditionalGeneration, set_seed
from transformers.utils.logging import disable_progress_bar

from theworld_fusion import assemble
from theworld_fusion.testing import TINY_WORLD
from theworld_train.data import CachingCollator, Collator, Example
from theworld_train.demo.data import Asked, by_family, mixture, pictures
from theworld_train.demo.size import DemoSize
from theworld_train.demo.training import TrainSettings, train
from theworld_train.evaluate.answers import choose
from theworld_train.evaluate.controls import noise, other_item
from theworld_train.jobs import Report

Switch = Literal["on", "off"]


@dataclass(kw_only=True)
class Trained:
    """One trained model's losses, and the answers of its arms to the held-out questions."""

    losses: list[float] = field(default_factory=list)
    answers: dict[str, list[str]] = field(default_factory=dict)


def pretrain(report: Report, vlm: Path, world: Path, out: Path, size: DemoSize, seed: int) -> list[float]:
    """Teach the VLM in ``vlm`` questions about pictures, and write it to ``out``: the base of both models.

    A real VLM knows pictures before it meets a world model. What it knows of them is then no part of the comparison.
    """
    disable_progress_bar()  # the models load in a blink
    shown = by_family(pictures(size.pictures, seed=3 * seed))
    examples = mixture(shown, size.picture_weights, size.picture_steps * size.batch_size, seed)
    _, processor = assemble(vlm, world, **TINY_WORLD)
    model = Gemma3ForConditionalGeneration.from_pretrained(vlm)
    losses = _train(model, CachingCollator(Collator(processor, world="off")), examples, size, seed, report)
    shutil.copytree(vlm, out, ignore=shutil.ignore_patterns("*.safetensors*"))
    model.save_pretrained(out)
    return losses


def train_and_ask(
    report: Report,
    world_is: Switch,
    base: Path,
    world: Path,
    training: Sequence[Asked],
    heldout: Sequence[Asked],
    size: DemoSize,
    seed: int,
    out: Path | None = None,
) -> Trained:
    """Train a model with world tokens or without, ask it the held-out questions, and save it to ``out``.

    With world tokens, it is asked twice more, with its world input swapped: for another clip's, and for noise.
    """
    disable_progress_bar()
    set_seed(seed)  # the projector is new: the same in both
    model, processor = assemble(base, world, **TINY_WORLD)
    vision = [model.model.vision_tower, model.model.multi_modal_projector]
    families = by_family(training)
    collator, trained = CachingCollator(Collator(processor, world=world_is)), Trained()
    for number, (weights, steps) in enumerate(zip((size.first_weights, size.weights), size.steps, strict=True)):
        examples = mixture(families, weights, steps * size.batch_size, seed + number)
        before = len(trained.losses)

        def of_all(done: int, total: int | None, note: str = "", before: int = before) -> None:
            report(before + done, sum(size.steps), note)

        trained.losses += _train(model, collator, examples, size, seed, of_all, vision)
    questions = [one.example() for one in heldout]
    groups = [one.group for one in heldout]
    arms: dict[str, Callable[[], list[Example]]] = {world_is: lambda: questions}
    if world_is == "on":
        arms |= {
            "other-item": lambda: other_item(questions, groups, seed=seed),
            "noise": lambda: noise(questions, seed=seed),
        }
    for arm, examples in arms.items():
        trained.answers[arm] = answers = []
        for text in choose(model, processor, examples(), [one.question.choices for one in heldout], world=world_is):
            answers.append(text)
            report(len(answers), len(heldout), f"asking, {arm}")
    if out is not None:
        model.save_pretrained(out)
        processor.save_pretrained(out)
    return trained


def _train(
    model: Gemma3ForConditionalGeneration,
    collator: CachingCollator,
    examples: Sequence[Example],
    size: DemoSize,
    seed: int,
    report: Report,
    frozen: Sequence = (),
) -> list[float]:
    settings = TrainSettings(
        steps=len(examples) // size.batch_size,
        batch_size=size.batch_size,
        learning_rate=size.rate,
        seed=seed,
    )
    return train(model, examples, collator, settings, frozen=frozen, report=report)
