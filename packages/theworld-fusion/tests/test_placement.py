# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportArgumentType=false
# transformers annotates generate, processors and from_pretrained otherwise than they are.
"""The same logits wherever and however the model runs, and the same weights after it was saved."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from theworld_fusion import CheckpointError, TheWorldForConditionalGeneration, TheWorldProcessor, assemble, load_model
from theworld_fusion.testing import TINY_WORLD, chat, encode
from theworld_fusion.testing import random_clip as clip
from theworld_fusion.testing import random_picture as picture

Pair = tuple[TheWorldForConditionalGeneration, TheWorldProcessor]
Inputs = dict[str, Any]

CHATS = [chat(picture(0), clip(1)), chat(text="What colour is it?"), chat(clip(2), text="Which way is it moving?")]
OTHER = chat([*clip(5)[:-1], clip(2)[-1]], text="Which way is it moving?")
"""Like the last of ``CHATS`` but for what only the world branch sees."""


@torch.no_grad()
def logits(model: Any, inputs: Inputs) -> Tensor:
    return model(**inputs).logits


@pytest.fixture(scope="module")
def saved(build_open: Callable[..., Pair], fusion: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Pair, Path]:
    """A model with its tied head, and the folder it was saved to."""
    model, processor = build_open(world_fusion=fusion)
    model.save_pretrained(folder := tmp_path_factory.mktemp("saved"))
    return (model, processor), folder


# Attention


@pytest.fixture
def restored(lively: Pair) -> Iterator[Pair]:
    """The shared model, with its attention put back afterwards."""
    yield lively
    lively[0].set_attn_implementation("sdpa")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # flex attention's own
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")  # the kernel is torch's to test
@pytest.mark.parametrize("kind", ["eager", "sdpa", "flex_attention"])
@pytest.mark.parametrize("attention", ["bidirectional", "causal"])
def test_every_attention_gives_the_same_logits(restored: Pair, kind: str, attention: str) -> None:
    model, processor = restored
    inputs = dict(encode(processor, CHATS[0]))
    if attention == "causal":
        inputs["token_type_ids"] = inputs["token_type_ids"] * (inputs["input_ids"] != model.config.world_token_id)
    wanted = logits(model, inputs)
    model.set_attn_implementation(kind)
    for part in (model, model.model, model.model.language_model, model.model.vision_tower):
        assert part.config._attn_implementation == kind
    with torch.compiler.set_stance("force_eager"):  # compiling flex attention takes half a minute
        torch.testing.assert_close(logits(model, inputs), wanted, rtol=0, atol=1e-4)


def test_the_attention_is_chosen_when_loading(saved: tuple[Pair, Path]) -> None:
    (model, processor), folder = saved
    loaded = TheWorldForConditionalGeneration.from_pretrained(folder, attn_implementation="eager")
    assert loaded.model.language_model.config._attn_implementation == "eager"
    inputs = encode(processor, CHATS)
    real = inputs["attention_mask"].bool()  # what stands at padding is nobody's business
    torch.testing.assert_close(logits(loaded, inputs)[real], logits(model, inputs)[real], rtol=0, atol=1e-4)


# Compilation


@pytest.fixture
def traceable() -> Iterator[None]:
    """Without the tests' own checks of shapes, which dynamo cannot look into."""
    jaxtyping.config.update("jaxtyping_disable", True)
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()
    jaxtyping.config.update("jaxtyping_disable", False)


def features_of(model: TheWorldForConditionalGeneration, inputs: Inputs) -> Inputs:
    """Without the world's pixels: compiling the encoder takes most of the time, and it is diffusers'."""
    rest = {key: value for key, value in inputs.items() if key != "pixel_values_world"}
    with torch.no_grad():
        features = model.get_world_features(inputs["pixel_values_world"]).last_hidden_state
    return {**rest, "world_features": torch.stack(list(features))}


@pytest.mark.parametrize(("fusion", "pixels"), [("sequence", True), ("sequence", False), ("gated", False)])
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # dynamo warns itself
def test_the_forward_compiles_to_one_graph(
    build_lively: Callable[..., Pair], traceable: None, fusion: str, pixels: bool
) -> None:
    model, processor = build_lively(world_fusion=fusion)
    inputs = encode(processor, CHATS[2])
    inputs = inputs if pixels else features_of(model, inputs)
    # What has to hold of ours is that it can be traced; code for it comes from the same backend as for any model.
    compiled = torch.compile(model, backend="eager" if pixels else "aot_eager", fullgraph=True)
    torch.testing.assert_close(logits(compiled, inputs), logits(model, inputs), rtol=0, atol=1e-5)
    other = encode(processor, OTHER)
    other = other if pixels else features_of(model, other)
    torch.testing.assert_close(logits(compiled, other), logits(model, other), rtol=0, atol=1e-5)
    assert (logits(compiled, other) - logits(compiled, inputs)).abs().max() > 0.01  # the world is no constant in it


def test_the_forward_can_be_exported(lively: Pair, traceable: None) -> None:
    model, processor = lively
    inputs = {**encode(processor, CHATS[2]), "use_cache": False}
    program = torch.export.export(model, (), inputs, strict=False).module()
    other = {**encode(processor, OTHER), "use_cache": False}
    torch.testing.assert_close(logits(program, other), logits(model, other), rtol=0, atol=1e-5)
    assert (logits(program, other) - logits(program, inputs)).abs().max() > 0.01


# Placement

LAYERS = {
    "model.language_model": None,
    **{f"model.language_model.{part}": "cpu" for part in ("embed_tokens", "norm", "rotary_emb")},
    "model.language_model.layers": "disk",
}
"""The embeddings stay: the tied head cannot be elsewhere, in stock Gemma 3 neither."""


def by_part(model: TheWorldForConditionalGeneration, **others: str | None) -> dict[str, str]:
    """A map with everything on the CPU but ``others``."""
    places = {**{f"model.{name}": "cpu" for name, _ in model.model.named_children()}, "lm_head": "cpu", **others}
    return {name: place for name, place in places.items() if place is not None}


@pytest.mark.parametrize("device_map", [{"": "cpu"}, "auto", None], ids=["cpu", "auto", "parts"])
def test_placed_on_one_device(saved: tuple[Pair, Path], device_map: Any) -> None:
    (model, processor), folder = saved
    inputs = encode(processor, CHATS)
    loaded = load_model(folder, device_map=device_map or by_part(model))
    assert torch.equal(logits(loaded, inputs), logits(model, inputs))


@pytest.mark.parametrize(
    "places",
    [
        pytest.param(LAYERS, id="layers"),
        pytest.param({"model.vision_tower": "disk"}, id="vision tower"),
        pytest.param({"model.world_encoder": "disk"}, id="world encoder"),
        pytest.param({"model.world_projector": "disk"}, id="world projector"),
        pytest.param({}, id="all"),
    ],
)
def test_placed_on_cpu_and_disk(saved: tuple[Pair, Path], tmp_path: Path, places: dict[str, str | None]) -> None:
    (model, processor), folder = saved
    device_map = by_part(model, **places) if places else {"": "disk"}
    loaded = TheWorldForConditionalGeneration.from_pretrained(folder, device_map=device_map, offload_folder=tmp_path)
    assert any(parameter.is_meta for parameter in loaded.parameters())
    inputs = encode(processor, CHATS)
    assert torch.equal(logits(loaded, inputs), logits(model, inputs))
    answers = [one.generate(**inputs, max_new_tokens=3, do_sample=False) for one in (loaded, model)]
    assert torch.equal(*answers)


def test_auto_never_splits_a_part_of_the_world_branch(saved: tuple[Pair, Path]) -> None:
    (model, _), _ = saved
    world = [part for name, part in model.model.named_children() if name.startswith("world_")]
    assert world
    assert {type(part).__name__ for part in world} <= set(model._no_split_modules)


def test_a_model_that_is_to_be_assembled_must_fit_into_memory(folders: tuple[Path, Path], tmp_path: Path) -> None:
    parts = ("vision_tower", "multi_modal_projector", "language_model", "world_encoder", "world_projector")
    places = {**{f"model.{part}": "cpu" for part in parts}, "lm_head": "cpu", "model.vision_tower": "disk"}
    with pytest.raises(CheckpointError, match=r"does not fit into memory by device_map=.* save_pretrained it"):
        assemble(*folders, **TINY_WORLD, device_map=places)


# Saving


def files(folder: Path) -> dict[str, Tensor]:
    return {key: value for file in folder.glob("*.safetensors") for key, value in load_file(file).items()}


def test_shards_are_loaded_as_one_file_is(saved: tuple[Pair, Path], tmp_path: Path) -> None:
    (model, processor), folder = saved
    model.save_pretrained(tmp_path, max_shard_size="500KB")
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 3
    one, many = files(folder), files(tmp_path)
    assert set(one) == set(many) == set(index["weight_map"])
    assert all(torch.equal(one[key], many[key]) for key in one)
    inputs = encode(processor, CHATS)
    assert torch.equal(logits(load_model(tmp_path), inputs), logits(model, inputs))


def test_tied_weights_stay_tied(saved: tuple[Pair, Path]) -> None:
    (_, processor), folder = saved
    assert not any("lm_head" in key for key in files(folder))
    loaded = load_model(folder)
    embedding = loaded.get_input_embeddings()
    assert isinstance(embedding, nn.Embedding)
    assert loaded.lm_head.weight.data_ptr() == embedding.weight.data_ptr()
    inputs = encode(processor, CHATS)
    before = logits(loaded, inputs)
    with torch.no_grad():
        embedding.weight[9] = 0
    assert (logits(loaded, inputs)[..., 9] == 0).all()
    assert (before[..., 9] != 0).any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_saved_and_loaded_bit_for_bit(
    build: Callable[..., Pair], fusion: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    model, processor = build(world_fusion=fusion, dtype=dtype)
    model.save_pretrained(tmp_path)
    loaded = load_model(tmp_path, dtype="auto")
    ours, theirs = model.state_dict(), loaded.state_dict()
    assert set(ours) == set(theirs)
    for name, value in ours.items():
        assert theirs[name].dtype == value.dtype, name
        assert torch.equal(theirs[name], value), name
    assert {parameter.dtype for parameter in loaded.parameters()} == {dtype}
    inputs = encode(processor, CHATS)
    assert torch.equal(logits(loaded, inputs), logits(model, inputs))


def test_both_bases_are_saved_under_their_publishers_names(
    saved: tuple[Pair, Path], folders: tuple[Path, Path]
) -> None:
    ours, vlm = files(saved[1]), files(folders[0])
    published = {
        key: value for key, value in files(folders[1] / "vae").items() if not key.startswith(("decoder", "post"))
    }
    prefix = "model.world_encoder."
    encoder = {key.removeprefix(prefix): value for key, value in ours.items() if key.startswith(prefix)}
    for name, mine, theirs in (("vlm", {key: ours[key] for key in vlm}, vlm), ("world", encoder, published)):
        assert set(mine) == set(theirs), name
        assert all(torch.equal(mine[key], theirs[key]) for key in theirs), name
    rest = set(ours) - set(vlm) - {prefix + key for key in encoder}
    assert rest
    assert all(key.startswith(("model.world_projector.", "model.world_gate.")) for key in rest)
