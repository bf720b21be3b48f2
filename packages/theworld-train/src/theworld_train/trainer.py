"""A thin layer over transformers' Trainer: what is trained, on which examples, for how long, with a progress bar."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from theworld_encoders import Encoder
from theworld_fusion import TheWorldForConditionalGeneration
from theworld_train.data import Collator, Example

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


class _LossBar(TrainerCallback):
    """A progress bar with the smoothed loss and the time left; keeps every step's loss."""

    def __init__(self, label: str) -> None:
        columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), "steps", TimeRemainingColumn())
        self.progress = Progress(*columns, TextColumn("loss {task.fields[loss]:.3f}"))
        self.label, self.losses = label, list[float]()

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.task = self.progress.add_task(self.label, total=state.max_steps, loss=float("nan"))
        self.progress.start()

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any) -> None:
        if logs and "loss" in logs:
            self.losses.append(logs["loss"])
            recent = self.losses[-20:]
            self.progress.update(self.task, completed=state.global_step, loss=sum(recent) / len(recent))

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.progress.stop()


def train(
    model: TheWorldForConditionalGeneration,
    examples: Sequence[Example],
    collator: Collator,
    settings: TrainSettings,
    *,
    folder: Path,
    label: str = "training",
) -> list[float]:
    """Train every part of ``model`` but its frozen encoders, on the answers only.

    Args:
        folder: where the Trainer keeps its own files.
        label: what the progress bar says.

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
    bar = _LossBar(label)
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
        callbacks=[bar],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    model.eval()
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    logger.info("trained %d parameters for %d steps", trained, settings.steps)
    return bar.losses
