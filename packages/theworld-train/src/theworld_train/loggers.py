"""Where a run's figures go: a JSON line each, TensorBoard, and Weights & Biases or trackio where asked."""

import json
import os
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from theworld_train.checkpoints import replace_text
from theworld_train.errors import UsageError
from theworld_train.recipe import Recipe

LOG = "log.jsonl"


class Logger(Protocol):
    """Takes the figures of a step of the whole run."""

    def log(self, figures: Mapping[str, float], step: int) -> None: ...

    def close(self) -> None: ...


class Lines:
    """A file of JSON lines; those behind ``step``, of a process that was killed after its last checkpoint, go."""

    def __init__(self, path: Path, step: int) -> None:
        kept = [entry for entry in read_lines(path) if entry["step"] <= step]
        replace_text(path, "".join(json.dumps(entry) + "\n" for entry in kept))
        self._file = path.open("a", encoding="utf-8")

    def log(self, figures: Mapping[str, Any], step: int) -> None:
        self._file.write(json.dumps({"step": step, **figures}) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class TensorBoardLogger:
    """Event files in ``tensorboard/``; what an earlier process wrote behind ``step`` is not shown."""

    def __init__(self, run: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run / "tensorboard"), purge_step=step + 1)

    def log(self, figures: Mapping[str, float], step: int) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class ServiceLogger:
    """Weights & Biases or trackio, which are called alike. Their credentials are theirs: no recipe has a field."""

    def __init__(self, library: str, project: str, recipe: Recipe, run: Path, **options: Any) -> None:
        try:
            service = import_module(library)
        except ImportError as error:
            raise UsageError(
                f"log.{library} is {project}, and {library} is not installed. Install it (pip install {library}), or "
                f"leave log.{library} out."
            ) from error
        # One run there for one folder here, however often it is resumed.
        options |= {"name": f"{recipe.name}-{_id(run)}", "resume": "allow"}
        self._run: Any = service.init(project=project, config=recipe.model_dump(mode="json"), **options)

    def log(self, figures: Mapping[str, float], step: int) -> None:
        self._run.log(dict(figures), step=step)

    def close(self) -> None:
        self._run.finish()


def open_loggers(recipe: Recipe, run: Path, step: int) -> list[Logger]:
    """All that the recipe asks for, for a run that goes on behind ``step``.

    Raises:
        UsageError: one is not installed.
    """
    loggers: list[Logger] = []
    if recipe.log.wandb is not None:
        loggers.append(ServiceLogger("wandb", recipe.log.wandb, recipe, run, id=_id(run), dir=str(run)))
    if recipe.log.trackio is not None:
        loggers.append(ServiceLogger("trackio", recipe.log.trackio, recipe, run))
    return [Lines(run / LOG, step), TensorBoardLogger(run, step), *loggers]


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Every line that was written whole."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _id(run: Path) -> str:
    """Of this run and no other, also after a resume."""
    file = run / "run-id"
    if not file.exists():
        file.write_text(os.urandom(4).hex(), encoding="utf-8")
    return file.read_text(encoding="utf-8")
