"""Any encoder, and any control, by changing the name alone: assemble, train, save, load, generate."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from theworld_encoders import list_controls
from theworld_encoders.registry import DEFAULT_ENCODER
from theworld_encoders.testing_all import TINY_ENCODERS
from theworld_fusion import (
    TheWorldConfig,
    TheWorldForConditionalGeneration,
    TheWorldProcessor,
    assemble,
    load_adapter,
    load_model,
    load_processor,
    save_adapter,
)
from theworld_fusion.testing import TINY_WORLD, chat, encode, make_tiny_vlm_folder, random_clip

Pair = tuple[TheWorldForConditionalGeneration, TheWorldProcessor]
CHAT = chat(random_clip(1))
NAMES = [*TINY_ENCODERS, *list_controls(), *(f"zeros:{name}" for name in TINY_ENCODERS)]


@pytest.fixture(scope="module")
def mix(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Pair]:
    """Assemble the toy VLM with an encoder; nothing but the name changes, and what belongs to it."""
    root = tmp_path_factory.mktemp("mix")
    make_tiny_vlm_folder(root / "vlm")

    def mix(name: str, **overrides: object) -> Pair:
        wrapped = name.partition(":")[2] or (DEFAULT_ENCODER if name in list_controls() else name)
        world = root / wrapped
        if not world.exists():
            TINY_ENCODERS[wrapped](world)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return assemble(root / "vlm", world, encoder=name, **{**TINY_WORLD, **overrides})

    return mix


def trained(model: TheWorldForConditionalGeneration, processor: TheWorldProcessor, steps: int = 5) -> list[float]:
    """Losses of a few steps on one answer; the language model stays as it is, the encoder as it came."""
    answer = [*CHAT, {"role": "assistant", "content": [{"type": "text", "text": "It moves to the left."}]}]
    inputs = processor.apply_chat_template([answer], tokenize=True, return_dict=True, return_tensors="pt")
    for name, parameter in model.named_parameters():
        if "world_" not in name:
            parameter.requires_grad_(False)
    optimizer = torch.optim.Adam((p for p in model.parameters() if p.requires_grad), lr=1e-2)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model(**inputs, labels=inputs["input_ids"]).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@torch.no_grad()
def logits(model: TheWorldForConditionalGeneration, processor: TheWorldProcessor) -> torch.Tensor:
    return model(**encode(processor, [CHAT])).logits


@pytest.mark.parametrize("name", NAMES)
def test_the_name_alone_changes(mix: Callable[..., Pair], tmp_path: Path, name: str) -> None:
    model, processor = mix(name)
    world = model.model.world_encoder
    assert (world.spec.name, model.config.world_config.encoder, processor.world_encoder) == (name,) * 3
    learnt = {name for name, parameter in world.named_parameters() if parameter.requires_grad}
    assert learnt == ({"registers"} if name.startswith("registers") else set())
    before = {name: parameter.clone() for name, parameter in world.named_parameters()}

    losses = trained(model, processor)
    assert losses[-1] < losses[0]
    changed = {name for name, parameter in world.named_parameters() if not torch.equal(parameter, before[name])}
    assert changed == learnt

    for part in (model, processor):
        part.save_pretrained(tmp_path / "whole")
    save_adapter(model, tmp_path / "adapter")
    wanted = logits(model, processor)
    loaded = load_model(tmp_path / "whole"), load_processor(tmp_path / "whole")
    for pair in (loaded, load_adapter(tmp_path / "adapter")):
        assert torch.equal(logits(*pair), wanted)
        assert {n for n, parameter in pair[0].model.world_encoder.named_parameters() if parameter.requires_grad} == (
            learnt
        )

    calls = []
    hook = world.register_forward_hook(lambda *_: calls.append(1))
    inputs = encode(processor, [CHAT])
    ids = model.generate(**inputs, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    hook.remove()
    assert len(calls) == 1  # per prompt, not per token
    assert ids.shape[1] == inputs["input_ids"].shape[1] + 4
    assert torch.equal(loaded[0].generate(**inputs, max_new_tokens=4, min_new_tokens=4, do_sample=False), ids)


@pytest.mark.parametrize("name", ["zeros", "registers", "random-init"])
def test_gated_fusion_and_bfloat16(mix: Callable[..., Pair], name: str) -> None:
    model, processor = mix(name, world_fusion="gated", dtype=torch.bfloat16)
    assert logits(model, processor).isfinite().all()


def test_a_control_without_weights_needs_no_world_checkpoint(mix: Callable[..., Pair]) -> None:
    """Offline, and with no folder: at the encoder's published size."""
    vlm = mix("zeros")[0].assembly.vlm
    model, processor = assemble(vlm, encoder="zeros")
    assert model.config.world_config.frame_size == 224
    assert logits(model, processor).isfinite().all()


def test_registers_are_saved_though_nothing_requires_gradients(mix: Callable[..., Pair], tmp_path: Path) -> None:
    model, processor = mix("registers")
    with torch.no_grad():
        model.model.world_encoder.registers.add_(1.0)
    save_adapter(model.requires_grad_(False), tmp_path)
    assert torch.equal(logits(*load_adapter(tmp_path)), logits(model, processor))


def test_controls_differ_in_what_the_model_reads(mix: Callable[..., Pair]) -> None:
    """The same projector, and another answer from each: no control is another one under a second name."""
    read = {name: logits(*mix(name)) for name in [DEFAULT_ENCODER, *list_controls()]}
    names = sorted(read)
    same = [(a, b) for a in names for b in names if a < b and torch.equal(read[a], read[b])]
    assert same == []


def test_a_control_by_its_name_alone_in_a_configuration() -> None:
    config = TheWorldConfig(world_config={"encoder": "zeros"})
    assert config.world_config.frame_size == 224
    assert TheWorldConfig.from_dict(config.to_dict()).world_config.encoder == "zeros"
    with pytest.raises(ValueError, match="Did you mean zeros"):
        TheWorldConfig(world_config={"encoder": "zeroes"})
