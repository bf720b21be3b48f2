"""Fields, their choices, and a round trip."""

import json
from pathlib import Path

import pytest
from transformers import AutoConfig

from theworld_fusion import TheWorldConfig


def test_defaults_are_the_contract() -> None:
    config = TheWorldConfig()
    assert (config.world_start_token_id, config.world_end_token_id, config.world_token_id) == (262145, 262146, 262147)
    assert config.world_tokens_per_item == 784
    assert config.world_config.encoder == "cosmos-predict2-vae"
    assert config.world_config.frame_size == 224
    assert (config.world_fusion, config.world_placement, config.world_attention) == (
        "sequence",
        "first",
        "bidirectional",
    )


def test_round_trip_through_auto_config(tmp_path: Path) -> None:
    config = TheWorldConfig(world_tokens_per_item=196, world_placement="beside_image", world_config={"frame_size": 256})
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(loaded, TheWorldConfig)
    assert {**loaded.to_dict(), "_name_or_path": ""} == {**config.to_dict(), "_name_or_path": ""}
    assert loaded.world_config.frame_size == 256


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("world_fusion", "concat"),
        ("world_placement", "last"),
        ("world_attention", "both"),
        ("world_projector", "qformer"),
        ("world_patch", 0),
        ("max_world_frames", 0),
        ("world_tokens_per_item", 700),
    ],
)
def test_impossible_values_are_refused(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{field} is '?{value}'?. Use"):
        TheWorldConfig(**{field: value})


@pytest.mark.parametrize(
    ("typo", "meant"),
    [
        ("world_token_per_item", "world_tokens_per_item"),
        ("wrld_projector", "world_projector"),
        ("max_world_frame", "max_world_frames"),
        ("world_atention", "world_attention"),
    ],
)
def test_a_misspelt_field_names_the_nearest(typo: str, meant: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"TheWorldConfig has no field '{typo}'. Did you mean {meant}"):
        TheWorldConfig(**{typo: 1})
    TheWorldConfig().save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), typo: 1}))
    with pytest.raises(ValueError, match=f"Did you mean {meant}"):
        AutoConfig.from_pretrained(tmp_path)


def test_what_transformers_keeps_of_its_own_is_let_through() -> None:
    config = TheWorldConfig(attn_implementation="eager", eos_token_id=[1, 106], torch_dtype="bfloat16", note="mine")
    assert config.eos_token_id == [1, 106]
    assert config.note == "mine"


def test_a_future_needs_an_encoder_that_predicts_and_room() -> None:
    config = TheWorldConfig(num_world_steps=15)
    assert config.world_config.encoder_config["num_future_frames"] == 15
    assert TheWorldConfig.from_dict({**config.to_dict(), "num_world_steps": 0}).world_config.encoder_config == {}
    with pytest.raises(ValueError, match=r"num_world_steps is 1, but wan21-dit predicts no future\. Use 0"):
        TheWorldConfig(num_world_steps=1, world_config={"encoder": "wan21-dit"})
    for steps in (-1, 16):
        with pytest.raises(ValueError, match=f"num_world_steps is {steps}, and max_world_frames 16 counts them .* 15"):
            TheWorldConfig(num_world_steps=steps)
