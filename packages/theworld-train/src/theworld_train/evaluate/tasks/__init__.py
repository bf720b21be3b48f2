"""Benchmarks: published ones in their published layouts, with scores that need no second model."""

from theworld_train.evaluate.task import Task
from theworld_train.evaluate.tasks.settings import (
    AnyTask,
    BlinkTask,
    MicroWorldTask,
    SpatialRgptTask,
    VsrTask,
    task_settings,
)

__all__ = ["AnyTask", "BlinkTask", "MicroWorldTask", "SpatialRgptTask", "VsrTask", "open_task", "task_settings"]


def open_task(settings: AnyTask, *, num_frames: int) -> Task:
    """The benchmark of the settings. Its rows are opened when its items are asked for.

    Args:
        num_frames: of clips that are made here.
    """
    match settings:
        case BlinkTask():
            from theworld_train.evaluate.tasks.blink import Blink

            return Blink(settings)
        case VsrTask():
            from theworld_train.evaluate.tasks.vsr import Vsr

            return Vsr(settings)
        case SpatialRgptTask():
            from theworld_train.evaluate.tasks.spatial_rgpt import SpatialRgptBench

            return SpatialRgptBench(settings)
        case MicroWorldTask():
            from theworld_train.evaluate.tasks.micro_world import MicroWorld

            return MicroWorld(settings, num_frames)
