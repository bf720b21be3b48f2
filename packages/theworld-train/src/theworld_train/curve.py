"""The picture of a run's loss."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def draw_losses(log: Sequence[dict[str, Any]], path: Path) -> None:
    """Training loss, smoothed too, and that of held-out examples, over the steps of the whole run."""
    from matplotlib.figure import Figure  # of a run's processes, only one draws

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel="loss (nats per supervised token)")
    steps, losses = _series(log, "loss")
    axes.plot(steps, losses, color="tab:blue", alpha=0.35, label="training")
    axes.plot(steps, _smooth(losses), color="tab:blue", label="training, smoothed")
    if (held := _series(log, "eval_loss"))[0]:
        axes.plot(*held, color="tab:orange", marker="o", label="held out")
    axes.legend()
    figure.savefig(path, dpi=120)


def _series(log: Sequence[dict[str, Any]], name: str) -> tuple[list[int], list[float]]:
    entries = [entry for entry in log if name in entry]
    return [entry["step"] for entry in entries], [entry[name] for entry in entries]


def _smooth(values: Sequence[float], weight: float = 0.9) -> list[float]:
    """Exponential moving average, each value corrected for the few before it."""
    smoothed, mean, total = [], 0.0, 0.0
    for value in values:
        mean, total = weight * mean + (1 - weight) * value, weight * total + (1 - weight)
        smoothed.append(mean / total)
    return smoothed
