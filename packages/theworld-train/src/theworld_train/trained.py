"""A trained checkpoint of either kind: an adapter on its bases, or a whole model. A run stands for its newest one."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from theworld_fusion import (
    TheWorldForConditionalGeneration,
    TheWorldProcessor,
    is_adapter,
    load_adapter,
    load_model,
    load_processor,
)
from theworld_train.checkpoints import newest


def checkpoint_of(model: str) -> str:
    """The newest whole checkpoint of a run's folder; whatever else ``model`` is, it is one itself."""
    last = newest(Path(model))
    return model if last is None else str(last[1])


def open_trained(model: str, **where: Any) -> tuple[TheWorldProcessor, Callable[[], TheWorldForConditionalGeneration]]:
    """The processor, and what gives the model: a whole one's weights are read only then, an adapter's are there.

    Args:
        model: folder of a run or of a checkpoint, or hub id.
        where: ``dtype`` and ``device_map``, as of ``load_model``.

    Raises:
        CheckpointError: there is no such checkpoint.
    """
    source = checkpoint_of(model)
    if not is_adapter(source):
        return load_processor(source), partial(load_model, source, **where)
    loaded, processor = load_adapter(source, **where)
    return processor, lambda: loaded
