"""A real checkpoint pair at toy size, made by code, and inputs for it: loaded by what loads the published ones."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import Gemma3Config, Gemma3ForConditionalGeneration

from theworld_encoders.testing import TINY_FRAME_SIZE, make_tiny_dit_folder
from theworld_fusion.assemble import assemble
from theworld_fusion.modeling_theworld import TheWorldForConditionalGeneration
from theworld_fusion.processing_theworld import TheWorldProcessor
from theworld_fusion.tiny_tokenizer import CHAT_TEMPLATE, make_tiny_tokenizer
from theworld_tokens import TokenLayout

IMAGE_SIZE, PATCH_SIZE, IMAGE_TOKENS = 64, 8, 16
"""Of the toy SigLIP tower: 8 x 8 patches, pooled to 4 x 4 image tokens as Gemma 3 pools 64 x 64 to 16 x 16."""

TINY_WORLD: dict[str, Any] = {
    "frame_size": TINY_FRAME_SIZE,
    "num_frames": 9,
    "world_tokens_per_item": 36,
    "world_patch": 2,
}
"""``assemble`` settings for the toy pair: a picture has 6 x 6 slots, nine frames (three latent ones) 3 x 3 each."""


def make_tiny_checkpoint(folder: str | Path, *, seed: int = 0) -> tuple[Path, Path]:
    """Write ``folder/vlm`` (a Gemma 3 VLM) and ``folder/world`` (a Cosmos-Predict2 model), random, with ``seed``.

    Both have exactly the files of the published checkpoints, sharded safetensors included.

    Returns:
        The two folders, ready for ``assemble``.
    """
    vlm, world = Path(folder) / "vlm", Path(folder) / "world"
    make_tiny_vlm_folder(vlm, seed=seed)
    make_tiny_dit_folder(world, seed=seed)
    return vlm, world


def tiny_model(folder: str | Path, **overrides: object) -> tuple[TheWorldForConditionalGeneration, TheWorldProcessor]:
    """Write the toy pair into ``folder`` and assemble it; ``overrides`` go to ``assemble``."""
    vlm, world = make_tiny_checkpoint(folder)
    return assemble(vlm, world, **{**TINY_WORLD, **overrides})  # pyright: ignore[reportArgumentType]


def random_picture(seed: int, size: tuple[int, int] = (64, 48)) -> Image.Image:
    """A smooth RGB picture of ``size`` (width, height), the same for the same seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def random_clip(seed: int, num_frames: int = 9) -> list[Image.Image]:
    """Unrelated smooth pictures, the same for the same seed."""
    return [random_picture(1000 * seed + frame) for frame in range(num_frames)]


def chat(*items: Any, text: str = "What happens next?") -> list[dict[str, Any]]:
    """One user turn about ``items``: pictures, or clips where an item is a list."""
    kinds = ["video" if isinstance(item, list) else "image" for item in items]
    blocks = [{"type": kind, kind: item} for kind, item in zip(kinds, items, strict=True)]
    return [{"role": "user", "content": [*blocks, {"type": "text", "text": text}]}]


def encode(processor: TheWorldProcessor, chats: list[Any], **kwargs: Any) -> dict[str, Any]:
    """Prompts for generation from one chat or several, padded, as tensors; ``kwargs`` go to the processor."""
    return processor.apply_chat_template(  # pyright: ignore[reportReturnType]
        chats,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True, **kwargs},
    )


def make_tiny_vlm_folder(folder: Path, *, seed: int = 0) -> None:
    """Write a Gemma 3 VLM with the layout of ``google/gemma-3-4b-it``."""
    tokenizer = make_tiny_tokenizer()
    layout = TokenLayout.from_tokenizer(tokenizer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Gemma3ForConditionalGeneration(_config(layout, len(tokenizer)))
        # transformers starts this projector at zero, which would make every picture the same.
        torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight, std=0.1)
    model.generation_config.update(
        bos_token_id=layout.bos, eos_token_id=[layout.eos, layout.end_of_turn], pad_token_id=layout.pad
    )
    half = int(0.6 * sum(parameter.numel() * parameter.element_size() for parameter in model.parameters()))
    model.save_pretrained(folder, max_shard_size=half)  # two shards with an index, as published
    tokenizer.save_pretrained(folder)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    _write_json(folder / "chat_template.json", {"chat_template": CHAT_TEMPLATE})
    processor = {"image_seq_length": IMAGE_TOKENS, "processor_class": "Gemma3Processor"}
    _write_json(folder / "processor_config.json", processor)
    _write_json(folder / "preprocessor_config.json", _image_processor())
    added = {token.content: index for index, token in tokenizer.added_tokens_decoder.items()}
    _write_json(folder / "added_tokens.json", {text: added[text] for text in ("<image_soft_token>",) if text in added})
    _write_json(folder / "special_tokens_map.json", tokenizer.special_tokens_map)


def _config(layout: TokenLayout, num_tokens: int) -> Gemma3Config:
    text = {
        "vocab_size": -(-(num_tokens + 8) // 64) * 64,  # spare rows for the world tokens, as the published 262,208 have
        "hidden_size": 96,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 24,
        "query_pre_attn_scalar": 24,
        "sliding_window": 128,
        "layer_types": ["sliding_attention", "full_attention"],
        "max_position_embeddings": 2048,
        "initializer_range": 0.1,
    }
    vision = {
        "model_type": "siglip_vision_model",
        "image_size": IMAGE_SIZE,
        "patch_size": PATCH_SIZE,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vision_use_head": False,
    }
    return Gemma3Config(
        text_config=text,  # pyright: ignore[reportArgumentType]
        vision_config=vision,  # pyright: ignore[reportArgumentType]
        mm_tokens_per_image=IMAGE_TOKENS,
        boi_token_index=layout.start_of_image,
        eoi_token_index=layout.end_of_image,
        image_token_index=layout.image_soft_token,
        initializer_range=0.1,
    )


def _image_processor() -> dict[str, object]:
    return {
        "do_convert_rgb": None,
        "do_normalize": True,
        "do_pan_and_scan": None,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_processor_type": "Gemma3ImageProcessor",
        "image_seq_length": IMAGE_TOKENS,
        "image_std": [0.5, 0.5, 0.5],
        "pan_and_scan_max_num_crops": None,
        "pan_and_scan_min_crop_size": None,
        "pan_and_scan_min_ratio_to_activate": None,
        "processor_class": "Gemma3Processor",
        "resample": 2,
        "rescale_factor": 1 / 255,
        "size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
    }


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
