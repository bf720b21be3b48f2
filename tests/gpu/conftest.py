"""Which devices the placement tests run on: every accelerator of the machine, else CPU processes in their place."""

import os

import pytest
import torch


def accelerators() -> list[torch.device]:
    found = torch.accelerator.current_accelerator()
    return [torch.device(found.type, index) for index in range(torch.accelerator.device_count())] if found else []


def pytest_configure() -> None:
    required, found = int(os.environ.get("THEWORLD_REQUIRE_GPUS", "0")), len(accelerators())
    if found < required:
        raise pytest.UsageError(
            f"THEWORLD_REQUIRE_GPUS is {required}, and torch sees {found} accelerators. "
            "Install torch for this machine's accelerator, or lower the number."
        )


def pytest_report_header() -> str:
    names = ", ".join(map(str, accelerators()))
    return f"placements: {names}" if names else "placements: no accelerator here, CPU processes instead"


@pytest.fixture
def devices() -> list[torch.device]:
    """Every accelerator, or the CPU twice."""
    return accelerators() or [torch.device("cpu")] * 2
