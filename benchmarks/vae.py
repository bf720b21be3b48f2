"""The encoder half of Cosmos-Predict2's VAE against diffusers' own, random weights at the published size."""

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from safetensors.torch import save_file
from torch import Tensor, nn

from benchmarks.counters import count
from benchmarks.predecessor import diffusers_vae
from benchmarks.row import Row, counted
from benchmarks.timing import interleaved, medians, ratio
from theworld_encoders.checkpoint import read_tensors
from theworld_encoders.registry import encoder_class
from theworld_encoders.vae import VaeEncoder

NAME = "cosmos-predict2-vae"


def counted_rows() -> Iterator[Row]:
    """Exactness, weights used and read, operators of a clip."""
    ours = build(torch.float32)
    yield counted("vae.exact", exactness(ours), {"size": 64, "frames": [1, 5, 9, 17]}, dtype="float32")
    used = count(partial(ours, clip(1, 64, torch.float32)), list(ours.parameters())).read
    whole = sum(one.numel() for one in whole_autoencoder().parameters())
    arms = {"ours": sum(used.values()) / 1e6, "autoencoder": whole / 1e6}
    yield counted("vae.params_T1", arms["ours"], {"size": 64, "frames": 1}, arms=arms)
    arms = bytes_read()
    yield counted("vae.bytes_read", arms["ours"], {}, arms=arms)
    pixels, theirs = clip(17, 64, torch.float32), diffusers_vae(ours)
    counts = {"ours": count(partial(ours, pixels)), "diffusers": count(partial(reference, theirs, pixels))}
    arms = {name: float(one.total) for name, one in counts.items()}
    yield counted("vae.ops_T17", arms["ours"], {"size": 64, "frames": 17}, dtype="float32", arms=arms)


def timed_rows(full: bool) -> Iterator[Row]:
    for name, frames, size, dtype, theirs_dtype in [
        ("vae.t1_speed", 1, 224, torch.float32, torch.float32),
        ("vae.t1_speed_float32", 1, 224, torch.bfloat16, torch.float32),
        *([("vae.video_speed", 17, 224, torch.bfloat16, torch.bfloat16)] if full else []),
    ]:
        ours = build(dtype)
        theirs = diffusers_vae(build(theirs_dtype))
        pixels = clip(frames, size, dtype)
        arms = {
            "ours": partial(_no_grad, ours, pixels),
            "diffusers": partial(reference, theirs, pixels.to(theirs_dtype)),
        }
        difference = (arms["ours"]() - ours.standardise(arms["diffusers"]())).abs().max().item()
        if difference > 0.2:
            raise RuntimeError(f"{name}: the latents differ by {difference:g}: the arms do not compute the same.")
        times = interleaved(arms)
        about: dict[str, Any] = {"geometry": {"size": size, "frames": frames}, "repeats": 7}
        about["dtype"] = str(dtype).removeprefix("torch.")
        yield Row(name=name, **ratio(times["diffusers"], times["ours"]), arms=medians(times), **about)


def build(dtype: torch.dtype, seed: int = 0) -> VaeEncoder:
    torch.manual_seed(seed)
    encoder = encoder_class(NAME).from_config({})
    assert isinstance(encoder, VaeEncoder)
    return encoder.to(dtype)


def whole_autoencoder() -> nn.Module:
    kind = encoder_class(NAME)
    assert issubclass(kind, VaeEncoder)
    with torch.device("meta"):
        return kind.diffusers_class()()


def clip(frames: int, size: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Pixels ``[1, t, 3, size, size]`` in [-1, 1]."""
    draw = torch.Generator().manual_seed(seed)
    return torch.rand(1, frames, 3, size, size, generator=draw).mul(2).sub(1).to(dtype)


@torch.no_grad()
def reference(vae: nn.Module, pixels: Tensor) -> Tensor:
    """diffusers' latents: the posterior's mode ``[m, c, t, r, s]``."""
    return vae.encode(rearrange(pixels, "m t c h w -> m c t h w").contiguous()).latent_dist.mode()


def exactness(ours: VaeEncoder) -> float:
    """Largest difference of standardised latents, over still image and clips."""
    theirs = diffusers_vae(ours)
    clips = [clip(frames, 64, torch.float32) for frames in (1, 5, 9, 17)]
    return max((_no_grad(ours, one) - ours.standardise(reference(theirs, one))).abs().max().item() for one in clips)


def bytes_read() -> dict[str, float]:
    """MB of tensors read from a checkpoint of the published layout, in bfloat16."""
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        tensors = {
            name: torch.zeros(one.shape, dtype=torch.bfloat16) for name, one in whole_autoencoder().state_dict().items()
        }
        save_file(tensors, Path(folder) / "diffusion_pytorch_model.safetensors")
        read = read_tensors(Path(folder), ("encoder.", "quant_conv."))
        return {
            "ours": sum(one.nbytes for one in read.values()) / 1e6,
            "autoencoder": sum(one.nbytes for one in tensors.values()) / 1e6,
        }


@torch.no_grad()
def _no_grad(encoder: VaeEncoder, pixels: Tensor) -> Tensor:
    return encoder(pixels)
