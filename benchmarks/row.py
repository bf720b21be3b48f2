"""One measured value with all that it takes to read it, and tables of them."""

import platform
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks.targets import TARGETS

LIBRARIES = ("torch", "transformers", "diffusers", "theworld-fusion")


@dataclass(frozen=True, kw_only=True)
class Row:
    """``low`` and ``high`` bound the median's 95 % interval; ``arms`` has each arm's own median, with its unit."""

    name: str
    value: float
    low: float
    high: float
    geometry: dict[str, Any]
    arms: dict[str, float] = field(default_factory=dict)
    repeats: int = 1
    dtype: str = "bfloat16"
    device: str = "cpu"
    seed: int | None = 0

    def record(self) -> dict[str, Any]:
        """For one line of JSON."""
        target = TARGETS[self.name]
        about = {"unit": target.unit, "target": f"{target.sense} {target.bound:g}", "floor": target.floor}
        met = {"predecessor": target.predecessor, "met": target.met(self.low, self.high)}
        return {**_rounded(asdict(self)), **about, **met, "versions": {name: version(name) for name in LIBRARIES}}


def counted(name: str, value: float, geometry: dict[str, Any], **more: Any) -> Row:
    """A row that is exact."""
    return Row(name=name, value=value, low=value, high=value, geometry=geometry, **more)


@cache
def hardware() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    device = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{names[0] if names else platform.machine()}{device}"


def table(records: Iterable[dict[str, Any]]) -> str:
    """Markdown: a line for each record."""
    head = ["name", "value", "95 %", "target", "met", "floor", "predecessor", "unit", "arms"]
    lines = [f"| {' | '.join(head)} |", "|---|---:|---|---|---|---:|---:|---|---|"]
    for one in records:
        interval = f"{one['low']:.4g} to {one['high']:.4g}"
        if one["low"] == one["high"]:
            interval = "exact" if TARGETS[one["name"]].kind == "counted" else "one run"
        met = {True: "yes", False: "**no**", None: "undecided"}[one["met"]]
        arms = ", ".join(f"{name} {value:.4g}" for name, value in one["arms"].items())
        cells = [f"`{one['name']}`", f"{one['value']:.4g}", interval, one["target"], met]
        cells += ["" if one[key] is None else f"{one[key]:.4g}" for key in ("floor", "predecessor")]
        lines.append(f"| {' | '.join([*cells, one['unit'], arms])} |")
    return "\n".join(lines)


def _rounded(value: Any) -> Any:
    """Five digits are more than any timing has."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    return {key: _rounded(one) for key, one in value.items()} if isinstance(value, dict) else value
