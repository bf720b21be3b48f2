"""Every deterministic count of the benchmarks keeps its bound, and what it is compared with is the right thing."""

import json
import subprocess
import sys
from typing import Any

import pytest

from benchmarks.targets import TARGETS

COUNTED = [name for name, target in TARGETS.items() if target.kind == "counted"]
PREDECESSOR = {"ops.syncs_prefill": 7, "ops.syncs_decode": 1, "ops.weight_bmm": 1}
"""Figures of the algorithm before this project, which its re-expression has to reproduce."""


@pytest.fixture(scope="module")
def rows() -> dict[str, dict[str, Any]]:
    """By name. In a process of its own: here, shapes are checked, and tensors without values are no annotated type."""
    command = [sys.executable, "-m", "benchmarks", "--counted"]
    output = subprocess.run(command, check=False, capture_output=True, text=True)
    found = [json.loads(line) for line in output.stdout.splitlines() if line.startswith("{")]
    assert found, output.stderr
    return {row["name"]: row for row in found}


def test_every_count_is_made(rows: dict[str, dict[str, Any]]) -> None:
    assert set(rows) == set(COUNTED)


@pytest.mark.parametrize("name", COUNTED)
def test_bound(rows: dict[str, dict[str, Any]], name: str) -> None:
    assert rows[name]["met"], rows[name]


@pytest.mark.parametrize(("name", "figure"), PREDECESSOR.items())
def test_the_predecessor_is_reproduced(rows: dict[str, dict[str, Any]], name: str, figure: int) -> None:
    assert rows[name]["arms"]["predecessor"] == figure


def test_the_predecessors_operations_are_reproduced(rows: dict[str, dict[str, Any]]) -> None:
    prefill = rows["flops.prefill_ratio"]["arms"]
    assert prefill["predecessor"] / prefill["plain"] == pytest.approx(1.142, rel=0.02)
    assert rows["flops.train_live"]["arms"]["predecessor"] == pytest.approx(23.9, rel=0.02)
