"""A thin layer over transformers' Trainer: what is trained, on which examples, for how long, with a progress bar."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import (
    Gemma3ForConditionalGeneration,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_callback import PrinterCallback

from theworld_encoders import Encoder
from theworld_train.data import Example
from theworld_train.jobs import Bars, Report

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainSettings:
    """How long and how fast; everything else is the data's or the model's."""

    steps: int
    batch_size: int
    learning_rate: float
    seed: int
    warmup_steps: int = 40
    """Then the rate falls to zero along a cosine."""
    weight_decay: float = 0.0
    adam_beta2: float = 0.99
    max_grad_norm: float = 1.0
    num_workers: int = 1
    """Processes that prepare batches."""


class _Examples(Dataset[Example]):
    def __init__(self, examples: Sequence[Example]) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Example:
        return self.examples[index]


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
    collator: Callable[[Sequence[Example]], dict[str, Any]],
    settings: TrainSettings,
    *,
    folder: Path,
    frozen: Sequence[nn.Module] = (),
    report: Report | None = None,
) -> list[float]:
    """Train every part of ``model`` but its world encoder and what is ``frozen``, on the answers only.

    Args:
        model: ours, or a plain Gemma 3 with a collator that leaves the world off.
        folder: where the Trainer keeps its own files.
        report: takes each step's number and loss; default: a progress bar.

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
    if report is None:
        with Bars() as bars:
            return train(model, examples, collator, settings, folder=folder, frozen=frozen, report=bars.add("training"))
    losses = _Losses(report)
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(folder),
            max_steps=settings.steps,
            per_device_train_batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=settings.warmup_steps,
            weight_decay=settings.weight_decay,
            adam_beta2=settings.adam_beta2,
            max_grad_norm=settings.max_grad_norm,
            seed=settings.seed,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            dataloader_pin_memory=torch.accelerator.is_available(),
            remove_unused_columns=False,
            dataloader_num_workers=settings.num_workers,
            dataloader_drop_last=len(examples) >= settings.batch_size,
        ),
        train_dataset=_Examples(examples),
        data_collator=collator,  # pyright: ignore[reportArgumentType]
        callbacks=[losses],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    model.eval()
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    logger.info("trained %d parameters for %d steps", trained, settings.steps)
    return losses.losses
