"""What the placement tests run on: accelerators, else CPU processes in their place; and which of the two it was.

``THEWORLD_PLACEMENT`` names one placement, whose tests alone are then run. ``THEWORLD_REQUIRE_GPUS=n`` makes it an
error that there are fewer.
"""

import importlib.util
import os
from pathlib import Path
from types import ModuleType

import pytest
import torch

PLACEMENTS = ("single", "split", "ddp2", "fsdp2", "fsdp2_offload")
RANKS = 2
"""Processes, at least, of those that are launched on several."""
OF_STRATEGY = {"ddp": "ddp2", "fsdp2": "fsdp2", "fsdp2_offload": "fsdp2_offload"}


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
    if (wanted := os.environ.get("THEWORLD_PLACEMENT")) not in (None, *PLACEMENTS):
        raise pytest.UsageError(f"THEWORLD_PLACEMENT is {wanted!r}. Use one of {', '.join(PLACEMENTS)}.")


def pytest_report_header() -> list[str]:
    names = [str(device) for device in accelerators()]
    one = f"on {names[0]}" if names else "on the CPU: no accelerator here"
    if len(names) >= RANKS:
        split, ranks = f"on {', '.join(names)}", f"{len(names)} processes on {', '.join(names)}"
    elif names:
        split = f"the encoder resting on the CPU, the rest on {names[0]}"
        ranks = f"{RANKS} CPU processes, by gloo: NCCL cannot share {names[0]}"
    else:
        split = "the encoder on the disk, the rest on the CPU: no accelerator here"
        ranks = f"{RANKS} CPU processes, by gloo: no accelerator here"
    return [f"single: {one}", f"split: {split}", f"ddp2, fsdp2, fsdp2_offload: {ranks}"]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if (wanted := os.environ.get("THEWORLD_PLACEMENT")) is None:
        return
    others = [item for item in items if _placement(item) != wanted]
    items[:] = [item for item in items if item not in others]
    config.hook.pytest_deselected(items=others)


def _placement(item: pytest.Item) -> str:
    """Whose test it is; those that compare strategies go with FSDP2's."""
    given = getattr(getattr(item, "callspec", None), "params", {})
    return given.get("placement") or OF_STRATEGY[given.get("strategy", "fsdp2")]


@pytest.fixture(scope="session")
def devices() -> list[torch.device]:
    """A device for each of at least two processes: every accelerator, or the CPU twice."""
    found = accelerators()
    return found if len(found) >= RANKS else [torch.device("cpu")] * RANKS


@pytest.fixture(scope="session")
def launching() -> ModuleType:
    """The helpers of theworld-train's own tests of launches."""
    file = Path(__file__).parents[2] / "packages" / "theworld-train" / "tests" / "launching.py"
    spec = importlib.util.spec_from_file_location("launching", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def on_accelerators(devices: list[torch.device]) -> bool:
    return devices[0].type != "cpu"
