"""For tests, ours and yours: a checkpoint folder of the published layout at toy size, and the encoder contract."""

import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch

from theworld_encoders import contract
from theworld_encoders.encoder import Encoder

TINY_FRAME_SIZE = 48
"""Pixels: six latents along each side."""

TINY_WAN_VAE = {"base_dim": 6, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 1, "z_dim": 16}
"""``AutoencoderKLWan`` settings: published strides and channels, toy widths."""

TINY_WAN22_VAE = {
    **TINY_WAN_VAE,
    "z_dim": 48,
    "decoder_base_dim": 8,
    "is_residual": True,
    "patch_size": 2,
    "in_channels": 12,
    "out_channels": 12,
    "scale_factor_spatial": 16,
}

TINY_COSMOS1_TOKENIZER = {
    "encoder_block_out_channels": [8, 16, 16, 16],
    "decode_block_out_channels": [8, 16, 16, 16],
    "num_layers": 1,
}
"""``AutoencoderKLCosmos`` settings, likewise."""

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

    return _write_tiny_vae(Path(folder), seed, lambda: AutoencoderKLWan(**TINY_WAN_VAE))


def make_tiny_wan22_folder(folder: str | Path, *, seed: int = 0) -> Path:
    """The same for Wan 2.2, whose configuration has a setting that diffusers does not know."""
    from diffusers import AutoencoderKLWan

    _write_tiny_vae(Path(folder), seed, lambda: AutoencoderKLWan(**TINY_WAN22_VAE))
    path = Path(folder) / "vae" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "clip_output": False}))
    return Path(folder)


def make_tiny_cosmos1_folder(folder: str | Path, *, seed: int = 0) -> Path:
    """The same for the Cosmos 1 tokenizer, whose means and deviations are those of sixteen latent frames."""
    from diffusers import AutoencoderKLCosmos

    return _write_tiny_vae(Path(folder), seed, lambda: AutoencoderKLCosmos(**TINY_COSMOS1_TOKENIZER), latent_frames=16)


def _write_tiny_vae(folder: Path, seed: int, build: Callable[[], Any], latent_frames: int = 1) -> Path:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        vae = build()
        _smooth(vae.encoder)
        latents = vae.encode(_moving_blocks(num_clips=16), return_dict=False)[0].mode()
    deviations, means = torch.std_mean(latents, dim=(0, 2, 3, 4))
    statistics = {"latents_mean": means, "latents_std": deviations}  # every latent frame gets the same
    vae.register_to_config(**{k: value.repeat_interleave(latent_frames).tolist() for k, value in statistics.items()})
    vae.save_pretrained(folder / "vae")
    return folder


_BRANCH_ENDS = ("conv2", "conv2.conv_t", "attentions.0.proj", "attentions.0.to_out.0")


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
            scale = branch if name.endswith(_BRANCH_ENDS) else 1.0
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


def check_encoder(encoder: Encoder, *, without: Collection[str] = ()) -> None:
    """Run the contract that every encoder keeps; any third party's can be run through it.

    Give a new encoder, as ``from_config`` or ``from_pretrained`` made it. It promises, by name:

    - ``copies``: deep copies and pickles give the same features, bit for bit.
    - ``shape``: features have the spec's grid and width and are finite; clips that break the frame rule are refused.
    - ``dtype``: features have the pixels' dtype, also after ``.to(torch.bfloat16)``.
    - ``repeats``: the same pixels give the same features, bit for bit.
    - ``batch``: an item's features do not depend on its batch, up to ``theworld_encoders.contract.TOLERANCE``.
    - ``pixels``: features depend on the pixels.
    - ``time``: ``world`` encoders see time's arrow, ``vision`` encoders each frame alone.
    - ``frozen``: nothing requires gradients, all is in eval mode, and no call keeps anything for a backward pass.
    - ``gradients``: once parameters require them, gradients reach parameters and pixels.
    - ``device``: it can be made on the meta device and filled by ``reset_parameters``; all of it moves with ``.to``.
    - ``saving``: ``from_config(config)`` with its state dict gives the same features, bit for bit.
    - ``threads``: four threads may call it at once.
    - ``no traces``: a call changes nothing but its result: no random state, no mode, no buffer.

    Args:
        without: promises that this encoder does not make, such as ``pixels`` for one whose features are constant.

    Raises:
        AssertionError: a promise is broken; the message says which and how.
        ValueError: ``without`` names no promise.
    """
    contract.check(encoder, without=without)
