"""Fields, their choices, and a round trip."""

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
