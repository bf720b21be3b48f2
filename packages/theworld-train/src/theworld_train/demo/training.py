"""How the demo trains: from memory, every part but the frozen ones, and nothing kept but the losses."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import (
    Gemma3ForConditionalGeneration,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from theworld_encoders import Encoder
from theworld_train.data import Example
from theworld_train.jobs import Report
from theworld_train.trainer import Trainer

Collate = Callable[[Sequence[Example]], dict[str, Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainSettings:
    """How long and how fast."""

    steps: int
    batch_size: int
    learning_rate: float
    seed: int
    warmup_steps: int = 40
    """Then the rate falls to zero along a cosine."""
    adam_beta2: float = 0.99
    max_grad_norm: float = 1.0


class _Losses(TrainerCallback):
    """Keeps every step's loss, and reports a smoothed one."""

    def __init__(self, report: Report) -> None:
        self.report, self.losses = report, list[float]()

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any) -> None:
        if logs and "loss" in logs:
            self.losses.append(logs["loss"])
            recent = self.losses[-20:]
            self.report(state.global_step, state.max_steps, f"loss {sum(recent) / len(recent):.3f}")


def train(
    model: Gemma3ForConditionalGeneration,
    examples: Sequence[Example],
    collator: Collate,
    settings: TrainSettings,
    *,
    frozen: Sequence[nn.Module] = (),
    report: Report,
) -> list[float]:
    """Train every part of ``model`` but its world encoder and what is ``frozen``, on the answers only.

    Args:
        model: ours, or a plain Gemma 3 with a collator that leaves the world off.
        examples: at least ``steps * batch_size``, or as many as there are, again and again; in a random order.

    Returns:
        The loss of every step.

    Raises:
        ValueError: there are no examples.
    """
    if not examples:
        raise ValueError("there are no examples to train on. Give at least one.")
    for module in model.modules():
        if isinstance(module, Encoder):
            module.freeze()
    for module in frozen:
        module.requires_grad_(False)
    losses = _Losses(report)
    with tempfile.TemporaryDirectory() as scratch:
        trainer = Trainer(
            model,
            TrainingArguments(
                output_dir=scratch,
                max_steps=settings.steps,
                learning_rate=settings.learning_rate,
                lr_scheduler_type="cosine",
                warmup_steps=settings.warmup_steps,
                adam_beta2=settings.adam_beta2,
                max_grad_norm=settings.max_grad_norm,
                seed=settings.seed,
                logging_steps=1,
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
            ),
            batches=_batches(examples, collator, settings),
            groups=[{"params": [parameter for parameter in model.parameters() if parameter.requires_grad]}],
            callbacks=[losses],
        )
        trainer.train()
    model.eval()
    return losses.losses


def _batches(examples: Sequence[Example], collator: Collate, settings: TrainSettings) -> Iterator[dict[str, Any]]:
    """Collated examples, without end; every round in another order."""
    generator, size = torch.Generator().manual_seed(settings.seed), settings.batch_size
    while True:
        order = torch.randperm(len(examples), generator=generator).tolist()
        for start in range(0, max(1, len(order) - size + 1), size):
            yield {"inputs": collator([examples[index] for index in order[start : start + size]])}
