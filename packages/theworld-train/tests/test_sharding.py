"""Parts that rest in the machine's memory are the policy's that torch has for it, for every part that is dealt out."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed
from torch.distributed.fsdp import FSDPModule

from theworld_train import sharding


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """One process that is a group, as accelerate's launcher would make it."""
    for name, value in {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    distributed.init_process_group(
        "gloo", store=distributed.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1
    )
    yield
    distributed.destroy_process_group()


@pytest.mark.parametrize("offload", [False, True])
def test_what_is_dealt_out_rests_where_it_was_told(
    build: Any, group: Any, monkeypatch: pytest.MonkeyPatch, offload: bool
) -> None:
    monkeypatch.setenv("FSDP_OFFLOAD_PARAMS", str(offload).lower())
    sharding.check_settings()
    model, _ = build()
    model.requires_grad_(True)
    sharding.shard(model, torch.float32, torch.device("cpu"))
    units = [module for module in model.modules() if isinstance(module, FSDPModule)]
    groups: list[Any] = [unit._get_fsdp_state()._fsdp_param_group for unit in units]
    dealt = [one for group in groups if group is not None for one in group.fsdp_params]
    assert len(units) == 1 + model.config.text_config.num_hidden_layers
    assert len(dealt) == len(list(model.parameters()))
    assert {one.offload_to_cpu for one in dealt} == {offload}
    assert sharding.resting(model) == {"cpu": sum(one.nbytes for one in model.parameters())}
