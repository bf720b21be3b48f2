"""The documentation's example of a third party's encoder: installed beside ours, it does all that ours do."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from theworld_encoders import EncoderError, list_encoders, load_encoder
from theworld_encoders.registry import encoder_class
from theworld_encoders.testing import check_encoder
from theworld_fusion import assemble, load_model, load_processor
from theworld_fusion.testing import TINY_WORLD, chat, encode, make_tiny_vlm_folder, random_clip

pytest.importorskip("theworld_patch_motion", reason="nox installs examples/theworld-patch-motion for this session")
NAME = "patch-motion"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the example's author would publish it."""
    folder = tmp_path_factory.mktemp(NAME)
    encoder = encoder_class(NAME).from_config({"width": 20, "patch": 8})
    (folder / "config.json").write_text(json.dumps(encoder.config))
    save_file(encoder.state_dict(), folder / "model.safetensors")
    return folder


def test_it_is_listed() -> None:
    assert NAME in list_encoders()
    listed = subprocess.run(
        [sys.executable, "-c", "from theworld_train.cli import main; main()", "encoders", "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    [own] = [one for one in json.loads(listed.stdout)["encoders"] if one["name"] == NAME]
    assert (own["clip_tokens"], own["parameters"]) == (9 * 4 * 4, 2 * 3 * 16**2 * 32 + 32)


def test_it_keeps_the_contract(weights: Path) -> None:
    check_encoder(encoder_class(NAME).from_config({}))
    check_encoder(load_encoder(NAME, weights, frame_size=48))
    check_encoder(load_encoder(f"shuffled-slots:{NAME}", weights, frame_size=48))


def test_without_weights_it_says_so() -> None:
    with pytest.raises(EncoderError, match=r"finds no model\.safetensors in None"):
        load_encoder(NAME)


@pytest.mark.parametrize("name", [NAME, f"zeros:{NAME}"])
def test_a_model_with_it_learns_is_saved_and_answers(weights: Path, tmp_path: Path, name: str) -> None:
    make_tiny_vlm_folder(tmp_path / "vlm")
    torch.manual_seed(0)
    model, processor = assemble(tmp_path / "vlm", weights, encoder=name, **TINY_WORLD)
    inputs = encode(processor, [chat(random_clip(1))])
    optimizer = torch.optim.Adam(model.model.world_projector.parameters(), lr=1e-2)
    losses = []
    for _ in range(2):
        loss = model(**inputs, labels=inputs["input_ids"]).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[1] < losses[0]
    model.save_pretrained(tmp_path / "saved")
    processor.save_pretrained(tmp_path / "saved")
    loaded, again = load_model(tmp_path / "saved"), load_processor(tmp_path / "saved")
    assert loaded.model.world_encoder.spec == model.model.world_encoder.spec
    assert again.world_spec.name == name
    ids = model.generate(**inputs, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    assert torch.equal(loaded.generate(**inputs, max_new_tokens=4, min_new_tokens=4, do_sample=False), ids)
