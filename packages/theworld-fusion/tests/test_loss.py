"""What carries loss, what learns from it, and what stays as it was."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import Gemma3ForConditionalGeneration

from theworld_fusion import TheWorldForConditionalGeneration, TheWorldProcessor
from theworld_fusion.loss import causal_lm_loss
from theworld_fusion.testing import chat, encode
from theworld_fusion.testing import random_clip as clip
from theworld_fusion.testing import random_picture as picture
from theworld_tokens import IGNORE_INDEX

Pair = tuple[TheWorldForConditionalGeneration, TheWorldProcessor]

FUSIONS = ("sequence", "gated")


def batch(processor: TheWorldProcessor, *, world: str = "on", labels: str = "answer") -> dict:
    """Two rows; ``labels`` on the last three tokens of each, on all tokens, or on none."""
    inputs = encode(processor, [chat(picture(0), clip(1)), chat(clip(2))], world=world)
    targets = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, IGNORE_INDEX)
    if labels != "all":
        targets[:, : -3 if labels == "answer" else None] = IGNORE_INDEX
    return {**inputs, "labels": targets}


def trainable(model: TheWorldForConditionalGeneration, *parts: str) -> dict[str, torch.nn.Parameter]:
    """Only the parameters whose names have one of ``parts`` require gradients; returns them."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(any(part in name for part in parts))
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("labels", ["answer", "all"])
def test_off_the_loss_is_the_base_vlms(pair: Pair, folders: tuple[Path, Path], labels: str) -> None:
    model, processor = pair
    stock = Gemma3ForConditionalGeneration.from_pretrained(folders[0])
    inputs = batch(processor, world="off", labels=labels)
    with torch.no_grad():
        assert torch.equal(model(**inputs).loss, stock(**inputs).loss)


def test_the_loss_is_the_mean_over_the_answers_tokens(pair: Pair) -> None:
    model, processor = pair
    inputs = batch(processor)
    with torch.no_grad():
        outputs = model(**inputs)
    rows = outputs.logits[:, -4:-1].log_softmax(-1)
    wanted = -rows.gather(-1, inputs["input_ids"][:, -3:, None]).mean()
    torch.testing.assert_close(outputs.loss, wanted)


def test_labels_at_world_tokens_carry_no_loss(pair: Pair) -> None:
    model, processor = pair
    inputs = batch(processor, labels="all")
    world = torch.isin(inputs["input_ids"], torch.tensor(model.config.world_token_ids))
    assert world.sum() == 36 + 27 + 27 + 6
    with torch.no_grad():
        wanted = model(**inputs).loss
        for label in (IGNORE_INDEX, 7):
            changed = inputs["labels"].masked_fill(world, label)
            assert torch.equal(model(**{**inputs, "labels": changed}).loss, wanted)
        text = inputs["labels"].masked_fill(~world & (inputs["labels"] != IGNORE_INDEX), 7)
        assert not torch.equal(model(**{**inputs, "labels": text}).loss, wanted)


def test_only_predictions_of_labels_have_a_gradient(pair: Pair) -> None:
    model, processor = pair
    inputs = batch(processor)
    logits = model(**{key: value for key, value in inputs.items() if key != "labels"}).logits.detach().requires_grad_()
    causal_lm_loss(logits, inputs["labels"], logits.shape[-1]).backward()
    assert logits.grad is not None
    places = logits.grad.abs().sum(-1) > 0
    wanted = torch.zeros_like(places)
    wanted[:, -4:-1] = True  # each predicts the next token
    assert torch.equal(places, wanted)


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("num_items", [None, 0])
def test_a_batch_without_labels_has_loss_zero_and_gradient_zero(
    build: Callable[..., Pair], fusion: str, num_items: int | None
) -> None:
    model, processor = build(world_fusion=fusion)
    parts = trainable(model, "world_projector", "lm_head")
    loss = model(**batch(processor, labels="none"), num_items_in_batch=num_items).loss
    loss.backward()
    assert loss.item() == 0
    gradients = [parameter.grad for parameter in parts.values() if parameter.grad is not None]
    assert gradients
    assert all((gradient == 0).all() for gradient in gradients)


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("part", ["world_projector", "world_encoder", "vision_tower", "language_model"])
def test_what_is_unfrozen_learns_and_nothing_else_changes(build: Callable[..., Pair], fusion: str, part: str) -> None:
    model, processor = build(world_fusion=fusion)
    new = [part, "world_gate"]
    if fusion == "gated":
        torch.nn.init.normal_(model.model.world_gate.weight)  # behind a closed gate nothing learns at once
    parts = trainable(model, *new)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.AdamW(parts.values(), lr=1e-2)
    model(**batch(processor)).loss.backward()
    assert all(parameter.grad is None for name, parameter in model.named_parameters() if name not in parts)
    optimizer.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    tied = {"lm_head.weight"} if part == "language_model" else set()
    assert changed - tied <= set(parts)
    assert set(parts) <= changed
