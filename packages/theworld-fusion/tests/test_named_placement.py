# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportArgumentType=false
"""Placements by name: what lies where, the same answers as on one device, and errors with the estimate."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.hooks import AlignDevicesHook

from theworld_fusion import CheckpointError, TheWorldForConditionalGeneration, TheWorldProcessor, assemble, load_model
from theworld_fusion import placement as module
from theworld_fusion.adapter import load_adapter, save_adapter
from theworld_fusion.placement import PLACEMENTS, Place, placement
from theworld_fusion.testing import TINY_WORLD, chat, encode, random_clip, random_picture

Pair = tuple[TheWorldForConditionalGeneration, TheWorldProcessor]
ENCODER = "model.world_encoder"
GB = 10**9


def sizes(model: torch.nn.Module, places: Mapping[str, Place]) -> dict[Place, int]:
    """Bytes on each place, each weight once, by the longest name that leads to it."""
    found: dict[Place, int] = {}
    for name, parameter in model.named_parameters():
        home = max((one for one in places if not one or f"{name}.".startswith(f"{one}.")), key=len)
        found[places[home]] = found.get(places[home], 0) + parameter.nbytes
    return found


@pytest.fixture(scope="module")
def saved(build_open: Callable[..., Pair], fusion: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Pair, Path]:
    model, processor = build_open(world_fusion=fusion)
    model.save_pretrained(folder := tmp_path_factory.mktemp("saved"))
    return (model, processor), folder


@pytest.fixture
def cpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Placements as on a machine without accelerators, wherever the tests run."""
    monkeypatch.setattr(module, "_free", lambda: {"cpu": 10 * GB})


@pytest.mark.parametrize("name", PLACEMENTS)
def test_answers_are_those_of_one_device(saved: tuple[Pair, Path], name: str, cpu_alone: None) -> None:
    (model, processor), folder = saved
    inputs = encode(processor, [chat(random_picture(0), random_clip(1)), chat(text="What colour is it?")])
    loaded = load_model(folder, device_map=name)
    with torch.no_grad():
        assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)
    answers = [one.generate(**inputs, max_new_tokens=3, do_sample=False) for one in (loaded, model)]
    assert torch.equal(*answers)
    away = {key for key, one in loaded.named_parameters() if one.is_meta}
    encoder = {key for key, _ in loaded.named_parameters() if key.startswith(f"{ENCODER}.")}
    moved = {"single": set[str](), "split": encoder}.get(name, away)
    assert encoder
    assert away == moved
    if name == "offload":
        assert encoder < away
        assert not any(one.is_meta for one in loaded.model.world_projector.parameters())
        assert not loaded.lm_head.weight.is_meta


def test_a_single_models_inputs_are_moved_to_it(saved: tuple[Pair, Path], cpu_alone: None) -> None:
    """By hooks on every part that a call or generate() may come to by itself."""
    loaded = load_model(saved[1], device_map="single")
    for part in (loaded, loaded.model.vision_tower, loaded.model.world_encoder, loaded.model.language_model):
        hook = part._hf_hook
        assert isinstance(hook, AlignDevicesHook)
        assert hook.execution_device == torch.device("cpu")
        assert hook.io_same_device == (part is loaded)


def test_an_adapter_goes_onto_a_placed_model(folders: tuple[Path, Path], pair: Pair, tmp_path: Path) -> None:
    model, processor = pair
    save_adapter(model, tmp_path)
    loaded, _ = load_adapter(tmp_path, device_map="single")
    inputs = encode(processor, [chat(random_clip(1))]).to(loaded.device)
    with torch.no_grad():
        torch.testing.assert_close(loaded(**inputs).logits.cpu(), model(**inputs.to("cpu")).logits, atol=2e-3, rtol=0)
    with pytest.raises(CheckpointError, match=r"does not fit into memory by device_map='offload'.* save_pretrained it"):
        load_adapter(tmp_path, device_map="offload")


@pytest.mark.parametrize("accelerators", [2, 3, 4])
def test_split_is_balanced(pair: Pair, accelerators: int) -> None:
    model, _ = pair
    *homes, last = range(accelerators)
    places = placement("split", model.config, free={**dict.fromkeys(range(accelerators), GB), "cpu": GB})
    found = sizes(model, places)
    assert [name for name, place in places.items() if place == last] == [ENCODER]
    assert set(found) == {*homes, last}
    largest = max(sizes(model, {**dict.fromkeys(places, 0), name: 1, "lm_head": 0}).get(1, 0) for name in places)
    rest = [found[home] for home in homes]
    assert max(rest) <= sum(rest) / len(homes) + largest
    layers = [place for name, place in places.items() if ".layers." in name]
    assert layers == sorted(layers)  # a call goes from device to device once
    assert places["lm_head"] == places["model.language_model.embed_tokens"]  # tied


def test_split_fills_devices_by_their_memory(pair: Pair) -> None:
    model, _ = pair
    total = sum(one.nbytes for one in model.parameters())
    places = placement("split", model.config, free={0: 3 * total, 1: total, 2: total, "cpu": GB})
    found = sizes(model, places)
    assert found[0] > found[1]


def test_beside_one_accelerator_the_encoder_rests_on_the_cpu(pair: Pair) -> None:
    places = placement("split", pair[0].config, free={0: GB, "cpu": GB})
    assert {name for name, place in places.items() if place == "cpu"} == {ENCODER}
    assert set(places.values()) == {0, "cpu"}


def test_offload_uses_the_disk_for_what_the_cpu_has_no_room_for(pair: Pair) -> None:
    model, _ = pair
    wide = placement("offload", model.config, free={0: GB, "cpu": GB})
    assert set(wide.values()) == {0, "cpu"}
    room = sizes(model, wide)["cpu"] // 2
    narrow = placement("offload", model.config, free={0: GB, "cpu": room})
    assert set(narrow.values()) == {0, "cpu", "disk"}
    assert sizes(model, narrow)["cpu"] <= room


def test_the_estimate_follows_the_dtype(pair: Pair) -> None:
    config = pair[0].config
    need = sum(one.nbytes for one in pair[0].parameters())
    free: dict[Place, int] = {0: int(0.6 * need), "cpu": GB}
    assert placement("single", config, dtype="bfloat16", free=free) == {"": 0}
    with pytest.raises(CheckpointError) as error:
        placement("single", config, dtype=torch.float32, free=free)
    assert f"{need / 1e9:.4g} GB of {free[0] / 1e9:.4g} GB free" in str(error.value)


@pytest.mark.parametrize("name", ["single", "split"])
def test_what_does_not_fit_is_refused_before_it_is_loaded(
    saved: tuple[Pair, Path], folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(module, "_free", lambda: {"cpu": 1000})
    with pytest.raises(CheckpointError, match=r"the weights do not fit: cpu 0\.\d+ GB of 1e-06 GB free"):
        load_model(saved[1], device_map=name)
    with pytest.raises(CheckpointError, match="the weights do not fit"):
        assemble(*folders, **TINY_WORLD, device_map={"": "cpu"})


@pytest.mark.parametrize(
    ("device_map", "message"),
    [
        ("splitt", "'splitt', which is neither a placement nor a device. Did you mean 'split'?"),
        ("cuda:97", "cuda:97, and this machine has cpu"),
        ({"": "cpu", ENCODER: "cuda:98"}, "cuda:98, and this machine has cpu"),
        ({"": 99}, "99, and this machine has cpu"),
        ({"": "nowhere"}, "'nowhere', which is neither"),
        ({"": None}, "None, which is neither"),
    ],
)
def test_devices_that_are_not_there(saved: tuple[Pair, Path], device_map: Any, message: str) -> None:
    with pytest.raises(CheckpointError) as error:
        load_model(saved[1], device_map=device_map)
    assert message in str(error.value)


def test_nothing_to_split_off(build: Callable[..., Pair]) -> None:
    model, _ = build(world_fusion="none")
    with pytest.raises(CheckpointError, match="no weights in one"):
        placement("split", model.config, free={0: GB, 1: GB, "cpu": GB})
    with pytest.raises(CheckpointError, match="Did you mean 'single'"):
        placement("singles", model.config)
