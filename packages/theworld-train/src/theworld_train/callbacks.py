"""What happens at each step of training besides the step: a progress bar, figures, evaluation, a request to stop."""

import time
from collections.abc import Callable, Mapping
from threading import Event
from typing import TYPE_CHECKING, Any

from accelerate import PartialState
from transformers import TrainerCallback, TrainerControl, TrainerState

from theworld_train.jobs import Report
from theworld_train.processes import on_any

if TYPE_CHECKING:
    from theworld_train.trainer import Trainer

Log = Callable[[Mapping[str, Any], int], None]
"""Takes the figures of a step of the whole run."""


class Figures(TrainerCallback):
    """Loss, learning rate, gradient norm, samples and tokens a second: to ``log`` and, with the time left, to a bar.

    The rates are those since the last line, over all processes. What this process skipped goes to ``log_skipped``.
    """

    def __init__(self, trainer: "Trainer", log: Log, log_skipped: Log, report: Report, total: int) -> None:
        self.trainer, self.log, self.log_skipped, self.report, self.total = trainer, log, log_skipped, report, total
        self.note = ""
        self._last = (0.0, 0, 0)

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._last = self._now()
        self.report(self.trainer.step, self.total, self.note)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        for one in self.trainer.consumed.newly_skipped:
            self.log_skipped(one, self.trainer.step)
        self.trainer.consumed.newly_skipped.clear()
        self.report(self.trainer.step, self.total, self.note)

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any) -> None:
        if not logs or "loss" not in logs:
            return
        (then, examples, tokens), self._last = self._last, self._now()
        rate = args.world_size / max(self._last[0] - then, 1e-9)
        figures = {
            **{name: logs[name] for name in ("loss", "learning_rate", "grad_norm") if name in logs},
            "samples_per_second": (self._last[1] - examples) * rate,
            "tokens_per_second": (self._last[2] - tokens) * rate,
        }
        self.log(figures, self.trainer.step)
        self.note = (
            f"loss {figures['loss']:.3f}  {figures['samples_per_second']:.3g} samples/s  "
            f"{figures['tokens_per_second']:.3g} tokens/s"
        )
        self.report(self.trainer.step, self.total, self.note)

    def _now(self) -> tuple[float, int, int]:
        return time.monotonic(), self.trainer.consumed.examples, self.trainer.consumed.tokens


class Every(TrainerCallback):
    """Does things every so many steps of the stage, and at its end."""

    def __init__(self, *things: tuple[int, Callable[[], None]]) -> None:
        self.things = things

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        for steps, act in self.things:
            if state.global_step % steps == 0 or state.global_step == state.max_steps:
                act()


class StopOnRequest(TrainerCallback):
    """Once any process was asked to stop, all save after the same step and end."""

    def __init__(self, process: PartialState, requested: Event) -> None:
        self.process, self.requested = process, requested

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if on_any(self.process, self.requested.is_set()):
            control.should_save = control.should_training_stop = True
