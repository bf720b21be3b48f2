"""The toy checkpoint has the published layout, and everything about it comes from a seed."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor, Gemma3ForConditionalGeneration, Gemma3Processor

from theworld_fusion.testing import make_tiny_checkpoint
from theworld_tokens import GEMMA3, TokenLayout


def test_layout_of_the_folders(folders: tuple[Path, Path]) -> None:
    vlm, world = folders
    files = {path.name for path in vlm.iterdir()}
    assert files >= {
        "config.json", "generation_config.json", "model.safetensors.index.json", "preprocessor_config.json",
        "processor_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
        "added_tokens.json", "chat_template.json",
    }  # fmt: skip
    assert {path.name for path in (world / "vae").iterdir()} == {"config.json", "diffusion_pytorch_model.safetensors"}
    weights = json.loads((vlm / "model.safetensors.index.json").read_text())["weight_map"]
    assert len(set(weights.values())) == 2
    prefixes = {key.rsplit(".", 1)[0].split(".")[0] for key in weights}
    assert prefixes == {"language_model", "multi_modal_projector", "vision_tower"}  # the published, older names


def test_stock_transformers_loads_it(folders: tuple[Path, Path]) -> None:
    model, info = AutoModelForImageTextToText.from_pretrained(folders[0], output_loading_info=True)
    assert isinstance(model, Gemma3ForConditionalGeneration)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    processor = AutoProcessor.from_pretrained(folders[0])
    assert isinstance(processor, Gemma3Processor)
    assert processor.image_seq_length == 16


def test_turn_markers_have_their_published_ids(folders: tuple[Path, Path]) -> None:
    tokenizer = AutoProcessor.from_pretrained(folders[0]).tokenizer
    layout = TokenLayout.from_tokenizer(tokenizer)
    for name in ("pad", "eos", "bos", "start_of_turn", "end_of_turn"):
        assert getattr(layout, name) == getattr(GEMMA3, name)
    assert tokenizer("<start_of_turn>user\nHi<end_of_turn>")["input_ids"][1] == GEMMA3.start_of_turn
    text = "Ünïcødé 🙂 and\n\nlines"
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


def test_the_seed_decides(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    state = torch.random.get_rng_state()
    again = make_tiny_checkpoint(tmp_path / "again")
    assert torch.equal(state, torch.random.get_rng_state())
    other = make_tiny_checkpoint(tmp_path / "other", seed=1)
    for old, new, different in zip(folders, again, other, strict=True):
        for path in old.rglob("*.safetensors"):
            first, second, third = (load_file(folder / path.relative_to(old)) for folder in (old, new, different))
            assert all(torch.equal(first[key], second[key]) for key in first)
            assert any(not torch.equal(first[key], third[key]) for key in first)
