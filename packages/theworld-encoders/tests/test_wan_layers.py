"""Faster layers change nothing: not the values, not the gradients, not for any kind of Wan VAE."""

from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from theworld_encoders import wan_vae
from theworld_encoders.registry import encoder_class
from theworld_encoders.testing import TINY_WAN22_VAE, TINY_WAN_VAE
from theworld_encoders.wan_vae import WanVae

SIDE = 32
KINDS: dict[str, dict[str, Any]] = {
    "wan21": TINY_WAN_VAE,
    "wan22": TINY_WAN22_VAE,
    "early": {**TINY_WAN_VAE, "temperal_downsample": [True, True, False]},
    "two-blocks": {**TINY_WAN22_VAE, "num_res_blocks": 2},
    "shallow": {**TINY_WAN_VAE, "dim_mult": [1, 2, 2], "temperal_downsample": [True, True]},
}


def build(kind: str) -> tuple[WanVae, AutoencoderKLWan]:
    """Our encoder and diffusers' autoencoder with one set of random weights."""
    settings = {**KINDS[kind]}
    channels = settings["z_dim"]
    settings |= {"latents_mean": [0.1] * channels, "latents_std": [0.5] * channels}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vae = AutoencoderKLWan(**settings)
        for parameter in vae.parameters():
            if parameter.ndim > 1 and parameter.shape[1:].numel() == 1:  # norms start at one
                parameter.data.uniform_(0.5, 1.5)
    name = "wan22-vae" if settings.get("patch_size") else "cosmos-predict2-vae"
    encoder = encoder_class(name).from_config(settings)
    assert isinstance(encoder, WanVae)
    encoder.load_state_dict({key: value for key, value in vae.state_dict().items() if key in encoder.state_dict()})
    return encoder, vae


def pixels(frames: int, items: int = 2) -> torch.Tensor:
    return torch.rand(items, frames, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(frames)) * 2 - 1


def reference(vae: AutoencoderKLWan, clip: torch.Tensor) -> torch.Tensor:
    mode = vae.encode(clip.transpose(1, 2)).latent_dist.mode()  # type: ignore[union-attr]
    return (mode.permute(0, 2, 3, 4, 1) - 0.1) / 0.5


@pytest.mark.parametrize("frames", [1, 5, 9, 17, 25])
@pytest.mark.parametrize("kind", list(KINDS))
def test_values(kind: str, frames: int) -> None:
    encoder, vae = build(kind)
    with torch.no_grad():
        wanted = reference(vae, pixels(frames))
    torch.testing.assert_close(encoder(pixels(frames)), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("frames_at_once", [4, 8, 12])
@pytest.mark.parametrize("kind", ["wan21", "wan22", "early"])
def test_chunks(kind: str, frames_at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, _ = build(kind)
    whole = encoder(pixels(29))
    seen: list[int] = []
    encoder.encoder.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[2]))
    monkeypatch.setattr(wan_vae, "CHUNK_PIXELS", 2 * frames_at_once * SIDE * SIDE)
    torch.testing.assert_close(encoder(pixels(29)), whole, rtol=0, atol=1e-5)
    assert seen[0] == 1 + frames_at_once
    assert sum(seen) == 29
    assert max(seen[1:]) == frames_at_once


@pytest.mark.parametrize("at_once", [1, 2**20], ids=["chunks", "one pass"])
@pytest.mark.parametrize("frames", [1, 9])
@pytest.mark.parametrize("kind", ["wan21", "wan22"])
def test_gradients(kind: str, frames: int, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, vae = build(kind)
    monkeypatch.setattr(wan_vae, "CHUNK_PIXELS", at_once)
    encoder.requires_grad_(True)
    encoder(pixels(frames)).square().mean().backward()
    reference(vae, pixels(frames)).square().mean().backward()
    wanted = dict(vae.named_parameters())
    for name, parameter in encoder.named_parameters():
        grad = parameter.grad
        if grad is None:  # a lone frame passes the convolutions over time by, here as there
            assert wanted[name].grad is None
        else:
            torch.testing.assert_close(grad, wanted[name].grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("frames", [1, 5])
def test_a_trained_weight_counts_at_once(frames: int) -> None:
    encoder, _ = build("wan21")
    before = encoder(pixels(frames))
    with torch.no_grad():
        encoder.get_parameter("encoder.conv_in.weight").mul_(1.5)
    assert not torch.allclose(encoder(pixels(frames)), before)


def test_nothing_is_kept_between_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, _ = build("wan21")
    monkeypatch.setattr(wan_vae, "CHUNK_PIXELS", 1)
    held = {name: set(vars(module)) for name, module in encoder.named_modules()}
    first = encoder(pixels(9))
    assert torch.equal(encoder(pixels(9)), first)
    assert {name: set(vars(module)) for name, module in encoder.named_modules()} == held
    assert all(isinstance(tensor, torch.nn.Parameter) for tensor in encoder.state_dict(keep_vars=True).values())


class Operations(TorchDispatchMode):
    """How many operations torch was asked for, which is what a GPU's host pays for."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def published() -> tuple[WanVae, AutoencoderKLWan]:
    with torch.device("meta"):
        encoder = encoder_class("cosmos-predict2-vae").from_config({})
        assert isinstance(encoder, WanVae)
        return encoder, AutoencoderKLWan()


@torch.no_grad()
def test_a_clip_takes_a_fraction_of_the_operations() -> None:
    encoder, vae = published()
    counts = []
    for work in (lambda clip: encoder(clip), lambda clip: vae.encode(clip.transpose(1, 2))):
        with Operations() as operations:
            work(torch.empty(1, 17, 3, 224, 224, device="meta"))
        counts.append(operations.count)
    assert counts[1] > 4 * counts[0], counts


@torch.no_grad()
def test_a_still_image_takes_a_fraction_of_the_arithmetic() -> None:
    encoder, vae = published()
    flops = []
    for work in (lambda clip: encoder(clip), lambda clip: vae.encode(clip.transpose(1, 2))):
        with FlopCounterMode(display=False) as counter:
            work(torch.empty(1, 1, 3, 224, 224, device="meta"))
        flops.append(counter.get_total_flops())
    assert flops[1] > 2.75 * flops[0], flops
