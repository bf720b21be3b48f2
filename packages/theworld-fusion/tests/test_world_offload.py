"""Every VAE encoder gives the same bits when accelerate's hooks bring each layer's weights from elsewhere."""

from pathlib import Path

import pytest
import torch
from accelerate import cpu_offload, disk_offload

from theworld_encoders import load_encoder, wan_vae
from theworld_encoders.testing import (
    TINY_FRAME_SIZE,
    make_tiny_cosmos1_folder,
    make_tiny_cosmos_folder,
    make_tiny_wan22_folder,
)

MAKERS = {
    "cosmos-predict2-vae": make_tiny_cosmos_folder,
    "cosmos1-tokenizer": make_tiny_cosmos1_folder,
    "wan22-vae": make_tiny_wan22_folder,
}


@pytest.mark.parametrize("at_once", [1, 2**20], ids=["chunks", "one pass"])
@pytest.mark.parametrize("name", sorted(MAKERS))
def test_offloaded(name: str, at_once: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wan_vae, "CHUNK_PIXELS", at_once)
    folder = MAKERS[name](tmp_path / name)
    plain, on_cpu, on_disk = (load_encoder(name, folder, frame_size=TINY_FRAME_SIZE) for _ in range(3))
    cpu_offload(on_cpu, torch.device("cpu"))
    disk_offload(on_disk, tmp_path / "offloaded", torch.device("cpu"))
    for frames in (1, 17):
        clip = torch.rand(1, frames, 3, TINY_FRAME_SIZE, TINY_FRAME_SIZE) * 2 - 1
        for offloaded in (on_cpu, on_disk):
            assert all(parameter.is_meta for parameter in offloaded.parameters())
            assert torch.equal(offloaded(clip), plain(clip))
