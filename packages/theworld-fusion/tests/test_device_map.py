"""Wherever the parts lie, the answers are the same."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from theworld_fusion import TheWorldForConditionalGeneration, TheWorldProcessor
from theworld_fusion.testing import chat, encode
from theworld_fusion.testing import random_clip as clip
from theworld_fusion.testing import random_picture as picture

Pair = tuple[TheWorldForConditionalGeneration, TheWorldProcessor]


@pytest.fixture(scope="module", params=["sequence", "gated"])
def saved(
    request: pytest.FixtureRequest, build: Callable[..., Pair], tmp_path_factory: pytest.TempPathFactory
) -> tuple:
    """A folder, inputs, the logits and ids that belong to them, and the names of the model's parts."""
    model, processor = build(world_fusion=request.param)
    if request.param == "gated":
        torch.nn.init.normal_(model.model.world_gate.weight, generator=torch.Generator().manual_seed(0))
    folder = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(folder)
    inputs = encode(processor, [chat(picture(0), clip(1)), chat(text="Hello")])
    return folder, inputs, observe(model, inputs), [name for name, _ in model.model.named_children()]


def observe(model: TheWorldForConditionalGeneration, inputs: dict) -> list[torch.Tensor]:
    with torch.no_grad():
        return [model(**inputs).logits, model.generate(**inputs, max_new_tokens=4, do_sample=False)]


def load(folder: Path, device_map: object, tmp_path: Path, **kwargs: object) -> TheWorldForConditionalGeneration:
    return TheWorldForConditionalGeneration.from_pretrained(
        folder, device_map=device_map, offload_folder=tmp_path, **kwargs
    )


def test_each_part_on_disk(saved: tuple, tmp_path: Path) -> None:
    folder, inputs, wanted, parts = saved
    for offloaded in set(parts) - {"language_model"}:  # whose embeddings the head shares
        places = {f"model.{part}": "disk" if part == offloaded else "cpu" for part in parts}
        model = load(folder, {**places, "lm_head": "cpu"}, tmp_path / offloaded)
        assert any(parameter.is_meta for parameter in getattr(model.model, offloaded).parameters())
        found = observe(model, inputs)
        assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True)), offloaded


@pytest.mark.parametrize("kwargs", [{}, {"max_memory": {"cpu": 400_000}}])
def test_auto(saved: tuple, kwargs: dict, tmp_path: Path) -> None:
    folder, inputs, wanted, _ = saved
    model = load(folder, "auto", tmp_path, **kwargs)
    assert any(parameter.is_meta for parameter in model.parameters()) == bool(kwargs)
    assert all(torch.equal(one, other) for one, other in zip(observe(model, inputs), wanted, strict=True))


def test_a_device_for_everything(saved: tuple, tmp_path: Path) -> None:
    folder, inputs, wanted, _ = saved
    model = load(folder, {"": "cpu"}, tmp_path)
    assert all(torch.equal(one, other) for one, other in zip(observe(model, inputs), wanted, strict=True))


def test_auto_never_splits_a_part_of_the_world_branch(saved: tuple) -> None:
    folder, *_ = saved
    model = TheWorldForConditionalGeneration.from_pretrained(folder)
    world = [part for name, part in model.model.named_children() if name.startswith("world_")]
    assert {type(part).__name__ for part in world} <= set(model._no_split_modules)
