"""The training loop: transformers' Trainer, with our batches, learning rates per part, and checkpoints of our own kind.

What is its own is left to it: accumulation, clipping, precision, schedules, processes, optimiser and random states.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate.utils import send_to_device
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from theworld_train import sharding
from theworld_train.checkpoints import commit, writing
from theworld_train.errors import UsageError

_PROGRESS = "progress-{}.json"
"""In a checkpoint: what a process has consumed."""
_OPTIMIZER, _SCHEDULER = "optimizer-{}.safetensors", "scheduler.pt"
"""In a checkpoint, where weights were dealt out: a process's part of the optimiser's state, and the schedule."""

Group = dict[str, Any]
"""Of parameters, as ``torch.optim`` takes them."""


class Trainer(transformers.Trainer):
    """Trains ``model`` on ready-made batches for ``args.max_steps``.

    Args:
        batches: gives ``{"inputs": ..., "keys": ..., "skipped": ..., "position": ...}`` without end; ``inputs`` alone
            is required, and goes to the model.
        groups: of the parameters that are trained, with their learning rates.
        run: the run's folder; without it nothing is saved.
        save: writes the model's weights into a folder; every process calls it, and one of them writes.
        first_step: of the whole run, where stages went before.
        keep: how many checkpoints are kept.
    """

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments,
        *,
        batches: Iterable[Mapping[str, Any]],
        groups: Sequence[Group],
        callbacks: Sequence[TrainerCallback] = (),
        run: Path | None = None,
        save: Callable[[Path], None] | None = None,
        first_step: int = 0,
        keep: int = 1,
    ) -> None:
        super().__init__(model=model, args=args, callbacks=list(callbacks))
        self.remove_callback(PrinterCallback)
        self.batches, self.groups = batches, groups
        self.run, self.save, self.first_step, self.keep = run, save, first_step, keep
        self.consumed = Consumed()
        self._folder: Path | None = None

    @property
    def step(self) -> int:
        """Of the whole run."""
        return self.first_step + self.state.global_step

    def resume(self, checkpoint: Path) -> None:
        """Go on where ``checkpoint`` was written: optimiser, schedule, random states, and the loss not logged yet.

        The weights are in the model already, and ``batches`` start behind what was consumed.
        """
        progress = read_progress(checkpoint, self.args.process_index)
        self.consumed = Consumed.of(progress)
        self.add_callback(_Unlogged(self, *progress["unlogged"]))
        self.train(resume_from_checkpoint=str(checkpoint))

    def get_train_dataloader(self) -> DataLoader:
        return self.batches  # pyright: ignore[reportReturnType]  # the loop only iterates; sharding is done already

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor | int | None]:
        """What the next step consumes: until here batches are only prepared, and a resumed run prepares them again."""
        return super().get_batch_samples(map(self.consumed.take, epoch_iterator), num_batches, device)

    def _prepare_input(self, data: Any) -> Any:
        """A batch to the device, without waiting for it: what lies in pinned memory is copied while work goes on."""
        return send_to_device(data, self.args.device, non_blocking=True)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            kind, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)  # pyright: ignore[reportArgumentType]
            self.optimizer = kind([dict(group) for group in self.groups], **options)
        return self.optimizer  # pyright: ignore[reportReturnType]

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        if sharding.is_wanted():
            sharding.announce(self.accelerator)
            self.is_fsdp_enabled = True

    def autocast_smart_context_manager(self, cache_enabled: bool | None = True) -> AbstractContextManager[None]:
        """For FSDP, where accelerate leaves it out: weights that are whole everywhere are in several dtypes."""
        return self.accelerator.autocast() if self.is_fsdp_enabled else nullcontext()

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        prepared = super()._prepare_for_training(*args, **kwargs)
        if self.is_fsdp_enabled:  # accelerate finds parameters again by their address, which all empty shards share
            for group, own in zip(self.optimizer.param_groups, self.groups, strict=True):
                group["params"] = list(own["params"])
        return prepared

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Only a folder for the rest: weights are saved where they stay, beside the bases that they may refer to."""
        if output_dir is not None:
            Path(output_dir).mkdir(parents=True, exist_ok=True)

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._folder or self.args.output_dir)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        if self.run is None:
            return
        main = self.args.should_save
        with writing(self.run, clear=main) as self._folder:
            self.accelerator.wait_for_everyone()
            super()._save_checkpoint(model, trial)
            unlogged = [self._tr_loss.item(), self._globalstep_last_logged]
            progress = json.dumps({**asdict(self.consumed), "unlogged": unlogged})
            own = self._folder / f"checkpoint-{self.state.global_step}"  # the Trainer's, which all processes write to
            (own / _PROGRESS.format(self.args.process_index)).write_text(progress, encoding="utf-8")
            self.accelerator.wait_for_everyone()
            if main:
                for path in own.iterdir():
                    path.rename(self._folder / path.name)
                own.rmdir()
            if self.save is not None:
                self.save(self._folder)
            if main:
                commit(self._folder, self.run, self.step, self.keep)
            self.accelerator.wait_for_everyone()
        self._folder = None

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.is_fsdp_enabled:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        folder = Path(output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        sharding.save_optimizer(self.optimizer, folder / _OPTIMIZER.format(self.args.process_index))
        if self.args.should_save:
            schedule: Any = self.lr_scheduler
            torch.save(schedule.state_dict(), folder / _SCHEDULER)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if not self.is_fsdp_enabled or checkpoint is None:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        folder = Path(checkpoint)
        sharding.load_optimizer(self.optimizer, folder / _OPTIMIZER.format(self.args.process_index))
        schedule: Any = self.lr_scheduler
        schedule.load_state_dict(torch.load(folder / _SCHEDULER, weights_only=True))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Nothing: an adapter's weights need its bases, which only the model's maker knows."""


@dataclass(kw_only=True)
class Consumed:
    """What this process has trained on so far in a stage."""

    position: Any = None
    digest: str = ""
    """Of the keys of all examples in their order: two runs that have the same one have seen the same."""
    examples: int = 0
    tokens: int = 0
    skipped: int = 0
    cache_misses: int = 0
    newly_skipped: list[dict[str, str]] = field(default_factory=list)

    def take(self, batch: Mapping[str, Any]) -> Any:
        """Count a batch; gives what the model takes of it."""
        inputs = batch["inputs"]
        self.position = batch.get("position")
        keys = "\n".join([self.digest, *batch.get("keys", ())])
        self.digest = hashlib.blake2b(keys.encode(), digest_size=16).hexdigest()
        self.examples += len(batch.get("keys", inputs["input_ids"]))  # a row may hold several
        self.tokens += int(inputs["attention_mask"].sum())
        self.newly_skipped += batch.get("skipped", ())
        self.skipped += len(batch.get("skipped", ()))
        self.cache_misses += batch.get("cache_misses", 0)
        return inputs

    @classmethod
    def of(cls, progress: Mapping[str, Any]) -> "Consumed":
        return cls(**{one.name: progress[one.name] for one in fields(cls)})


class _Unlogged(TrainerCallback):
    """Puts the sum of losses since the last log line back, which the loop would start at zero."""

    def __init__(self, trainer: Trainer, loss: float, logged: int) -> None:
        self.trainer, self.loss, self.logged = trainer, loss, logged

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.trainer._tr_loss += self.loss
        self.trainer._globalstep_last_logged = self.logged


def check_processes(checkpoint: Path, processes: int, *, sharded: bool) -> None:
    """Raises:
    UsageError: the checkpoint was written by more or fewer processes, or by such that kept weights another way.
    """
    written = len(list(checkpoint.glob(_PROGRESS.format("*"))))
    if written != processes:
        raise UsageError(
            f"{checkpoint} was written by {written} processes, and this is a run of {processes}. Resume with as many, "
            "or start a new run from its weights, with model.init_from."
        )
    if (was := (checkpoint / _OPTIMIZER.format(0)).exists()) != sharded:
        ways = {True: "FSDP", False: "DDP or a single process"}
        raise UsageError(f"{checkpoint} was written under {ways[was]}, and this is {ways[sharded]}. Resume as it was.")


def read_progress(checkpoint: Path, rank: int) -> dict[str, Any]:
    """What a process wrote into a checkpoint."""
    return json.loads((checkpoint / _PROGRESS.format(rank)).read_text(encoding="utf-8"))
