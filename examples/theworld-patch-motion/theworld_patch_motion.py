"""Patches of each frame and of what changed since the frame before, through one linear layer."""

import json
from dataclasses import replace
from pathlib import Path

import torch
from einops import rearrange
from safetensors.torch import load_file

from theworld_encoders import Encoder, EncoderError, EncoderSpec


class PatchMotion(Encoder):
    published = EncoderSpec(
        name="patch-motion", kind="world", width=32, frame_size=64, spatial_stride=16, temporal_stride=1,
        repo_id="", revision="", subfolder="", licence="Apache-2.0", gated=False,
    )  # fmt: skip

    def __init__(self, config: dict, frame_size: int | None = None) -> None:
        config = {"width": 32, "patch": 16, **config}
        own = {"width": config["width"], "spatial_stride": config["patch"]}
        super().__init__(replace(self.published, **own, frame_size=frame_size or self.published.frame_size), config)
        self.project = torch.nn.Linear(2 * 3 * config["patch"] ** 2, config["width"])
        self.freeze()

    @classmethod
    def from_config(cls, config, *, frame_size=None):
        return cls(config, frame_size)

    @classmethod
    def from_pretrained(cls, source=None, *, revision=None, frame_size=None, dtype=None, device=None):
        if source is None or not (Path(source) / "model.safetensors").is_file():
            raise EncoderError(f"patch-motion finds no model.safetensors in {source}. Give a folder that has one.")
        encoder = cls(json.loads((Path(source) / "config.json").read_text()), frame_size)
        encoder.load_state_dict(load_file(Path(source) / "model.safetensors"))
        return encoder.to(device=device, dtype=dtype)

    def encode(self, pixels):
        change = torch.diff(pixels, dim=1, prepend=pixels[:, :1])
        p = self.config["patch"]
        return self.project(rearrange([pixels, change], "n m t c (r p) (s q) -> m t r s (n c p q)", p=p, q=p))

    def reset_parameters(self) -> None:
        self.project.reset_parameters()
