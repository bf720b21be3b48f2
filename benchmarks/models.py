# pyright: reportArgumentType=false, reportAttributeAccessIssue=false
# transformers annotates sub-configurations otherwise than they are.
"""The models that are measured, and one prompt: 784 world, 256 image and 60 text tokens with their markers.

``full`` has Gemma-3-4B's and Cosmos-Predict2's sizes, on the meta device: its operations can be counted, not run.
``mid`` has their proportions at a size that a processor core runs (head and tower cost what they do in the 4B, beside
the language model); ``v262k`` has a small language model under the whole vocabulary; ``deep`` has all 34 layers, and
next to nothing in them.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import Gemma3Config, Gemma3ForConditionalGeneration

from theworld_fusion import TheWorldConfig, TheWorldForConditionalGeneration, WorldEncoderConfig
from theworld_tokens import IGNORE_INDEX
from theworld_train.estimate.sizes import gemma3

Size = Literal["full", "mid", "v262k", "deep"]
WORLD, IMAGE, TEXT, LABELLED = 784, 256, 60, 32
LENGTH = WORLD + IMAGE + TEXT
QUESTION = WORLD + IMAGE + 5
"""Where the words begin, after the markers."""


@dataclass(frozen=True, slots=True)
class Ids:
    """Of tokens that mean something, in a vocabulary of any size."""

    bos: int = 2
    boi: int = 5
    eoi: int = 6
    image: int = 7
    sow: int = 8
    eow: int = 9
    world: int = 10
    word: int = 100


IDS = Ids()


_SIZES = {  # vocabulary, language model's width and layers, tower's width and layers
    "mid": (12_928, 512, 8, 384, 10),
    "v262k": (262_208, 256, 6, 192, 6),
    "deep": (512, 64, 34, 64, 2),
}


def vlm_config(size: Size) -> Gemma3Config:
    config = gemma3("4b") if size == "full" else _smaller(*_SIZES[size])
    config.boi_token_index, config.eoi_token_index, config.image_token_index = IDS.boi, IDS.eoi, IDS.image
    return config


def _smaller(vocabulary: int, width: int, layers: int, vision_width: int, vision_layers: int) -> Gemma3Config:
    text = {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": max(width // 128, 2),
        "num_key_value_heads": max(width // 256, 1),
        "head_dim": 64,
        "query_pre_attn_scalar": 64,
        "sliding_window": 1024,
    }
    vision = {
        "model_type": "siglip_vision_model",
        "hidden_size": vision_width,
        "intermediate_size": 4 * vision_width,
        "num_hidden_layers": vision_layers,
        "num_attention_heads": vision_width // 64,
        "image_size": 448,
        "patch_size": 14,
        "vision_use_head": False,
    }
    return Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=IMAGE)


def world_settings(size: Size) -> dict[str, Any]:
    """Of the VAE: the published ones, or a sixth of the width."""
    return {} if size == "full" else {"base_dim": 16}


def build(
    size: Size, *, dtype: torch.dtype = torch.bfloat16, device: str | None = None, seed: int = 0
) -> TheWorldForConditionalGeneration:
    """Random weights, everything frozen but the world projector, in training mode but for the encoders.

    On the CPU, the full size on the meta device.
    """
    base = vlm_config(size)
    config = TheWorldConfig(
        text_config=base.text_config,
        vision_config=base.vision_config,
        boi_token_index=IDS.boi,
        eoi_token_index=IDS.eoi,
        image_token_index=IDS.image,
        mm_tokens_per_image=IMAGE,
        world_config=WorldEncoderConfig(encoder_config=world_settings(size), frame_size=224),
        world_fusion="sequence",
        world_tokens_per_item=WORLD,
        world_start_token_id=IDS.sow,
        world_end_token_id=IDS.eow,
        world_token_id=IDS.world,
    )
    torch.manual_seed(seed)
    device = device or ("meta" if size == "full" else "cpu")
    with torch.device(device):
        model = TheWorldForConditionalGeneration(config)
    if device != "meta":
        torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight, std=0.02)  # else zero
    model.to(dtype).requires_grad_(False)
    model.model.world_projector.requires_grad_(True)
    _no_end(model)
    return model.train()


def plain(model: TheWorldForConditionalGeneration) -> Gemma3ForConditionalGeneration:
    """The base VLM, on the same weights."""
    with torch.device("meta"):
        stock = Gemma3ForConditionalGeneration(vlm_config(_size(model))).requires_grad_(False)
    own = {key: value for key, value in model.state_dict(keep_vars=True).items() if ".world_" not in key}
    stock.load_state_dict(own, assign=True)
    for name, buffer in model.named_buffers():
        if ".world_" not in name:
            owner, _, leaf = name.rpartition(".")
            stock.get_submodule(owner).register_buffer(leaf, buffer, persistent=False)
    _no_end(stock)
    return stock.eval()


def prompt(model: TheWorldForConditionalGeneration, batch: int = 1) -> dict[str, Tensor]:
    """``[BOS SOW WORLD*784 EOW BOI IMG*256 EOI text]``, ``[b, 1100]``; the last 32 tokens are an answer."""
    start = [IDS.bos, IDS.sow, *[IDS.world] * WORLD, IDS.eow, IDS.boi, *[IDS.image] * IMAGE, IDS.eoi]
    words = range(IDS.word, IDS.word + LENGTH - len(start))
    ids = torch.tensor([[*start, *words]], device=model.device).repeat(batch, 1)
    types = ((ids == IDS.world) | (ids == IDS.image)).long()
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": types}


def labels(inputs: dict[str, Tensor]) -> Tensor:
    ids = inputs["input_ids"].to("cpu") if inputs["input_ids"].device.type != "meta" else None
    targets = torch.full(inputs["input_ids"].shape, IDS.word) if ids is None else ids.clone()
    targets[:, :-LABELLED] = IGNORE_INDEX
    return targets


def picture(model: TheWorldForConditionalGeneration, batch: int = 1, seed: int = 0) -> dict[str, Tensor]:
    """Pixels for both towers: random, one picture a row."""
    side = model.config.vision_config.image_size
    draw = torch.Generator(model.device.type if model.device.type == "cuda" else "cpu").manual_seed(seed)
    shapes = {"pixel_values": (batch, 3, side, side), "pixel_values_world": (batch, 1, 3, 224, 224)}
    if model.device.type == "meta":
        return {name: torch.empty(shape, device="meta", dtype=model.dtype) for name, shape in shapes.items()}
    return {
        name: torch.rand(shape, generator=draw, device=draw.device).mul(2).sub(1).to(model.device, model.dtype)
        for name, shape in shapes.items()
    }


@torch.no_grad()
def features(
    model: TheWorldForConditionalGeneration, given: dict[str, Tensor], *, vision: bool = False
) -> dict[str, Any]:
    """The same picture with what the frozen world encoder makes of it computed ahead, and the image tower if asked.

    As caches hold them: the world's latents, and the tower's output, pooled.
    """
    inputs: dict[str, Any] = dict(given)
    inputs["world_features"] = model.model.world_encoder(inputs.pop("pixel_values_world"))
    if vision:
        patches = model.model.vision_tower(inputs.pop("pixel_values")).last_hidden_state
        inputs["image_features"] = model.model.multi_modal_projector.pool(patches)
    return inputs


def geometry(size: Size, batch: int = 1) -> dict[str, Any]:
    tokens = {"world": WORLD, "image": IMAGE, "text": TEXT, "labelled": LABELLED}
    return {"model": size, "batch": batch, **tokens}


def _size(model: TheWorldForConditionalGeneration) -> Size:
    text = model.config.text_config
    return next((name for name, (_, width, *_) in _SIZES.items() if width == text.hidden_size), "full")


def _no_end(model: Gemma3ForConditionalGeneration) -> None:
    """Every answer gets its full length."""
    model.generation_config.update(eos_token_id=None, bos_token_id=IDS.bos, pad_token_id=0)
