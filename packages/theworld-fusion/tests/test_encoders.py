"""Other encoders than the reference one in the fused model, and Gemma 3's own tower loaded alone."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Gemma3ForConditionalGeneration

from theworld_encoders import load_encoder, preprocess
from theworld_encoders.testing import check_encoder
from theworld_encoders.testing_vision import (
    make_tiny_dinov3_folder,
    make_tiny_siglip_folder,
    make_tiny_vjepa2_folder,
)
from theworld_fusion import assemble
from theworld_fusion.checkpoint import load_model, load_processor
from theworld_fusion.testing import IMAGE_SIZE, TINY_WORLD, chat, encode, random_clip, random_picture


@pytest.mark.parametrize("name", ["siglip", "gemma3-siglip"])
def test_gemmas_tower_alone_equals_the_vlms(folders: tuple[Path, Path], name: str) -> None:
    vlm = Gemma3ForConditionalGeneration.from_pretrained(folders[0], attn_implementation="sdpa").eval()
    encoder = load_encoder(name, folders[0])
    assert encoder.spec.frame_size == IMAGE_SIZE
    pixels = preprocess(random_clip(0, 3), encoder.spec)
    with torch.no_grad():
        wanted = vlm.model.vision_tower(pixels).last_hidden_state
    features = encoder(pixels[None])
    assert features.shape == (1, 3, 8, 8, 64)
    assert torch.equal(features.flatten(), wanted.flatten())
    check_encoder(encoder)


def test_gemmas_tower_on_the_base_vlms_own_pixels(folders: tuple[Path, Path]) -> None:
    model, processor = assemble(folders[0], folders[0], encoder="gemma3-siglip", **{**TINY_WORLD, "frame_size": None})
    inputs = encode(processor, chat(random_picture(0)))
    torch.testing.assert_close(inputs["pixel_values_world"][0, 0], inputs["pixel_values"][0])
    world = model.get_world_features(inputs["pixel_values_world"]).last_hidden_state[0]
    own = model.model.vision_tower(inputs["pixel_values"]).last_hidden_state
    torch.testing.assert_close(world.flatten(), own.flatten())


@pytest.mark.parametrize("prefix", ["vision_tower.vision_model.", "model.vision_tower.vision_model.", "vision_model."])
def test_the_tower_is_found_behind_any_prefix(folders: tuple[Path, Path], tmp_path: Path, prefix: str) -> None:
    encoder = load_encoder("siglip", folders[0])
    tensors = {key.replace("vision_model.", prefix): value for key, value in encoder.state_dict().items()}
    save_file({**tensors, "language_model.model.norm.weight": torch.ones(3)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((folders[0] / "config.json").read_text())
    loaded = load_encoder("siglip", tmp_path).state_dict()
    assert all(torch.equal(value, loaded[key]) for key, value in encoder.state_dict().items())


def test_nothing_but_the_tower_is_read(folders: tuple[Path, Path], tmp_path: Path) -> None:
    index = json.loads((folders[0] / "model.safetensors.index.json").read_text())
    shards: dict[str, dict[str, torch.Tensor]] = {
        file: load_file(folders[0] / file) for file in index["weight_map"].values()
    }
    tower = {key: value for shard in shards.values() for key, value in shard.items() if "vision_tower" in key}
    save_file(tower, tmp_path / "tower.safetensors")
    weight_map = {key: "tower.safetensors" if key in tower else "absent.safetensors" for key in index["weight_map"]}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (tmp_path / "config.json").write_text((folders[0] / "config.json").read_text())
    assert len(load_encoder("siglip", tmp_path).state_dict()) == len(tower)


@pytest.mark.parametrize("fusion", ["sequence", "gated"])
@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("siglip", make_tiny_siglip_folder),
        ("siglip2", make_tiny_siglip_folder),
        ("dinov3", make_tiny_dinov3_folder),
        ("vjepa2", make_tiny_vjepa2_folder),
    ],
)
def test_assembled_saved_and_loaded(
    folders: tuple[Path, Path], tmp_path: Path, name: str, make: Callable[[Path], Path], fusion: str
) -> None:
    world = make(tmp_path / "world")
    model, processor = assemble(folders[0], world, encoder=name, **{**TINY_WORLD, "world_fusion": fusion})
    inputs = encode(processor, chat(random_clip(0, 4)))
    with torch.no_grad():
        wanted = model(**inputs).logits
    encoder = load_encoder(name, world, frame_size=TINY_WORLD["frame_size"])
    features = model.get_world_features(inputs["pixel_values_world"]).last_hidden_state[0]
    torch.testing.assert_close(features, encoder(inputs["pixel_values_world"])[0])
    model.save_pretrained(tmp_path / "saved")
    processor.save_pretrained(tmp_path / "saved")
    loaded = load_model(tmp_path / "saved")
    assert not any(parameter.requires_grad for parameter in loaded.model.world_encoder.parameters())
    assert torch.equal(
        encode(load_processor(tmp_path / "saved"), chat(random_clip(0, 4)))["input_ids"], inputs["input_ids"]
    )
    with torch.no_grad():
        torch.testing.assert_close(loaded(**inputs).logits, wanted)
