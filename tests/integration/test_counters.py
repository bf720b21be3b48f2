"""Every deterministic count of the benchmarks keeps its bound, and what it is compared with is the right thing."""

from importlib import import_module

import pytest

from benchmarks.row import Row
from benchmarks.targets import TARGETS

PREDECESSOR = {"ops.syncs_prefill": 7, "ops.syncs_decode": 1, "ops.weight_bmm": 1}
"""Figures of the algorithm before this project, which its re-expression has to reproduce."""


@pytest.fixture(scope="module")
def rows() -> dict[str, Row]:
    modules = [import_module(f"benchmarks.{name}") for name in ("flops", "ops", "vae", "data")]
    return {row.name: row for module in modules for row in module.counted_rows()}


def test_every_count_is_made(rows: dict[str, Row]) -> None:
    assert set(rows) == {name for name, target in TARGETS.items() if target.kind == "counted"}


@pytest.mark.parametrize("name", [name for name, target in TARGETS.items() if target.kind == "counted"])
def test_bound(rows: dict[str, Row], name: str) -> None:
    assert TARGETS[name].met(rows[name].low, rows[name].high), rows[name]


@pytest.mark.parametrize(("name", "figure"), PREDECESSOR.items())
def test_the_predecessor_is_reproduced(rows: dict[str, Row], name: str, figure: int) -> None:
    assert rows[name].arms["predecessor"] == figure


def test_the_predecessors_operations_are_reproduced(rows: dict[str, Row]) -> None:
    prefill = rows["flops.prefill_ratio"].arms
    assert prefill["predecessor"] / prefill["plain"] == pytest.approx(1.142, rel=0.02)
    assert rows["flops.train_live"].arms["predecessor"] == pytest.approx(23.9, rel=0.02)
