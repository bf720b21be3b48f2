"""For tests, ours and yours: a checkpoint folder of the published layout at toy size, and the encoder contract."""

from pathlib import Path
from typing import Any

import torch

from theworld_encoders.encoder import Encoder

TINY_FRAME_SIZE = 48
"""Pixels: six latents along each side."""

TINY_WAN_VAE = {"base_dim": 6, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 1, "z_dim": 16}
"""``AutoencoderKLWan`` settings: published strides, channels and latent statistics, toy widths."""

TINY_TRANSFORMERS: dict[str, dict[str, Any]] = {
    "CosmosTransformer3DModel": {
        "in_channels": 17,
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "num_layers": 4,
        "text_embed_dim": 24,
        "adaln_lora_dim": 8,
        "rope_scale": [1.0, 3.0, 3.0],
        "extra_pos_embed_type": None,
    },
    "WanTransformer3DModel": {
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "num_layers": 4,
        "text_dim": 24,
        "freq_dim": 16,
        "ffn_dim": 64,
    },
}
"""Settings by class of diffusers: published patches, masks and rotary scales, toy widths."""


def make_tiny_dit_folder(folder: str | Path, class_name: str = "CosmosTransformer3DModel", *, seed: int = 0) -> Path:
    """Write a folder with ``vae/``, ``transformer/`` and the exported embedding of the empty prompt.

    Args:
        class_name: one of ``TINY_TRANSFORMERS``: Cosmos-Predict2's or Wan 2.1's.
    """
    import diffusers
    from safetensors.torch import save_file

    from theworld_encoders.prompt import PROMPT_FILE, PROMPT_KEY

    folder = make_tiny_cosmos_folder(folder, seed=seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        getattr(diffusers, class_name)(**TINY_TRANSFORMERS[class_name]).save_pretrained(folder / "transformer")
        save_file({PROMPT_KEY: torch.randn(8, 24)}, folder / PROMPT_FILE)
    return folder


def make_tiny_cosmos_folder(folder: str | Path, *, seed: int = 0) -> Path:
    """Write a Cosmos-Predict2 folder: ``vae/config.json`` and ``vae/diffusion_pytorch_model.safetensors``.

    Weights are random, drawn with ``seed``, and smooth; the global random state is left as it was. As in the published
    configuration, the latent means and deviations are those of this VAE's own latents: features have unit scale.
    """
    from diffusers import AutoencoderKLWan

    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        vae = AutoencoderKLWan(**TINY_WAN_VAE)
        _smooth(vae.encoder)
        latents = vae.encode(_moving_blocks(num_clips=16), return_dict=False)[0].mode()
    deviations, means = torch.std_mean(latents, dim=(0, 2, 3, 4))
    vae.register_to_config(latents_mean=means.tolist(), latents_std=deviations.tolist())
    vae.save_pretrained(Path(folder) / "vae")
    return Path(folder)


def _smooth(encoder: torch.nn.Module, blur: float = 1.2, branch: float = 0.2) -> None:
    """Redraw all convolutions as random mixes of blurred and delayed channels, with weak residual branches.

    Independent weights would scramble small pictures; like a trained encoder, these take near clips to near latents.
    """
    for name, module in encoder.named_modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Conv3d):
            outputs, inputs, *taps = module.weight.shape
            time, height, width = taps if len(taps) == 3 else (1, *taps)
            rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
            centres = (
                torch.rand(2, outputs, inputs, 1, 1) * torch.tensor([height - 1, width - 1])[:, None, None, None, None]
            )
            blurs = torch.softmax(
                (-((rows - centres[0]) ** 2 + (columns - centres[1]) ** 2) / (2 * blur**2)).flatten(-2), dim=-1
            )
            delays = torch.nn.functional.one_hot(torch.randint(time, (outputs,)), time)
            mix = torch.randn(outputs, inputs) / inputs**0.5
            weight = mix[:, :, None, None] * delays[:, None, :, None] * blurs[:, :, None]
            scale = branch if name.endswith(("conv2", "attentions.0.proj")) else 1.0
            module.weight.copy_(scale * weight.reshape(module.weight.shape))
            torch.nn.init.zeros_(module.bias)  # pyright: ignore[reportArgumentType]


def _moving_blocks(num_clips: int, num_frames: int = 5) -> torch.Tensor:
    """Clips ``[m, 3, t, h, w]`` of a coloured block that moves over a coloured ground, in [-1, 1]."""
    size, block = TINY_FRAME_SIZE, TINY_FRAME_SIZE // 4
    clips = torch.rand(num_clips, 3, 1, 1, 1).mul(2).sub(1).repeat(1, 1, num_frames, size, size)
    for clip in clips:
        colour = torch.rand(3, 1, 1) * 2 - 1
        path = torch.linspace(0, 1, num_frames)[:, None] * torch.randint(-8, 9, (2,)) + torch.randint(8, 28, (2,))
        for frame, (top, left) in enumerate(path.long().tolist()):
            clip[:, frame, top : top + block, left : left + block] = colour
    return clips


def check_encoder(encoder: Encoder) -> None:
    """Run the contract that every encoder keeps; any third party's can be run through it.

    Raises:
        AssertionError: a promise is broken; the message says which.
    """
    spec, size = encoder.spec, encoder.spec.frame_size
    device = next(encoder.parameters()).device
    generator = torch.Generator().manual_seed(0)
    shortest = spec.fit_frames(1)
    lengths = (shortest, spec.fit_frames(shortest + 1))
    clips = [torch.rand(t, 3, size, size, generator=generator).mul(2).sub(1).to(device) for t in lengths]
    singles = [encoder(clip[None])[0] for clip in clips]
    for clip, features in zip(clips, singles, strict=True):
        wanted = (*spec.grid(clip.shape[0], size, size), spec.width)
        assert features.shape == wanted, f"features have shape {tuple(features.shape)}, the spec says {wanted}"
        assert features.isfinite().all(), "features are not finite"
        assert not features.requires_grad, "a frozen encoder's features require gradients"
    grouped = encoder.encode_items([clips[1], clips[0], clips[1]])
    for features, single in zip(grouped, (singles[1], singles[0], singles[1]), strict=True):
        torch.testing.assert_close(features, single, msg="grouped items differ from single ones")
    assert not torch.equal(encoder(-clips[1][None])[0], singles[1]), "features do not depend on the pixels"
    if spec.kind == "world":
        backwards = encoder(clips[1].flip(0)[None])[0]
        assert not torch.allclose(backwards, singles[1].flip(0)), "a world encoder's features do not see time's arrow"
    else:
        alone = torch.cat([encoder(frame[None, None])[0] for frame in clips[1]])
        torch.testing.assert_close(alone, singles[1], msg="a vision encoder's features of a frame depend on others")
