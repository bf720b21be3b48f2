"""What carries loss, what learns from it, and what stays as it was."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import Gemma3ForCausalLM, Gemma3ForConditionalGeneration

from theworld_fusion import TheWorldForConditionalGeneration, TheWorldProcessor
from theworld_fusion.loss import CHUNK, causal_lm_loss
from theworld_fusion.testing import chat, encode
from theworld_fusion.testing import random_clip as clip
from theworld_fusion.testing import random_picture as picture
from theworld_tokens import IGNORE_INDEX

Pair = tuple[TheWorldForConditionalGeneration, TheWorldProcessor]

FUSIONS = ("sequence", "gated")


def batch(processor: TheWorldProcessor, *, world: str = "on", labels: str = "answer", text: str = "What next?") -> dict:
    """Two rows; ``labels`` on the last three tokens of each, on all tokens, or on none."""
    inputs = encode(processor, [chat(picture(0), clip(1), text=text), chat(clip(2), text=text)], world=world)
    targets = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, IGNORE_INDEX)
    if labels != "all":
        targets[:, : -3 if labels == "answer" else None] = IGNORE_INDEX
    return {**inputs, "labels": targets}


def trainable(model: TheWorldForConditionalGeneration, *parts: str) -> dict[str, torch.nn.Parameter]:
    """Only the parameters whose names have one of ``parts`` require gradients; returns them."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(any(part in name for part in parts))
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def learn(model: torch.nn.Module, inputs: dict) -> tuple[torch.Tensor, torch.Tensor | None, dict[str, torch.Tensor]]:
    """Loss, logits and gradients in training."""
    model.train().zero_grad()
    outputs = model(**inputs)
    outputs.loss.backward()
    gradients = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    return outputs.loss.detach(), outputs.logits, gradients


def check_gradients(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    """Equal to five digits, and where all is rounding (a bias of SigLIP's keys has no influence) as small."""
    assert found.keys() == wanted.keys()
    largest = max(float(gradient.norm()) for gradient in wanted.values())
    for name, gradient in wanted.items():
        assert (found[name] - gradient).norm() <= 1e-5 * gradient.norm() + 1e-7 * largest, name


@pytest.mark.parametrize("labels", ["answer", "all"])
def test_off_the_loss_is_the_base_vlms(pair: Pair, folders: tuple[Path, Path], labels: str) -> None:
    model, processor = pair
    stock = Gemma3ForConditionalGeneration.from_pretrained(folders[0])
    inputs = batch(processor, world="off", labels=labels)
    with torch.no_grad():
        assert torch.equal(model(**inputs).loss, stock(**inputs).loss)


@pytest.mark.parametrize("labels", ["answer", "all"])
@pytest.mark.parametrize("fusion", [*FUSIONS, "none"])
def test_off_it_is_trained_as_the_base_vlm_is(
    build: Callable[..., Pair], folders: tuple[Path, Path], fusion: str, labels: str
) -> None:
    model, processor = build(world_fusion=fusion)
    stock = Gemma3ForConditionalGeneration.from_pretrained(folders[0])
    inputs = batch(processor, world="off", labels=labels)
    (ours, logits, found), (theirs, _, wanted) = learn(model, inputs), learn(stock, inputs)
    assert logits is None
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)
    assert found.keys() == dict(stock.named_parameters()).keys()
    check_gradients(found, wanted)


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning")
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft asks
@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_without_logits_loss_and_gradients_are_the_same(
    build_lively: Callable[..., Pair], fusion: str, lora: bool
) -> None:
    model, processor = build_lively(world_fusion=fusion)
    inputs = batch(processor, labels="all", text="What happens next? " * 20)
    ignored = torch.tensor([IGNORE_INDEX, *model.config.world_token_ids])
    assert (~torch.isin(inputs["labels"], ignored)).sum() > CHUNK
    if lora:  # a head of more than a weight
        settings = LoraConfig(r=2, target_modules=["q_proj", "lm_head"], init_lora_weights=False)
        model = get_peft_model(model, settings)
    loss, logits, found = learn(model, inputs)
    wanted_loss, wanted_logits, wanted = learn(model, {**inputs, "skip_logits": False})
    assert logits is None
    assert wanted_logits is not None
    torch.testing.assert_close(loss, wanted_loss, rtol=1e-6, atol=0)
    assert any("lm_head" in name for name in found)
    check_gradients(found, wanted)


def test_logits_are_left_out_in_training_with_labels_alone(pair: Pair, build: Callable[..., Pair]) -> None:
    inputs = batch(pair[1])
    unlabelled = {name: value for name, value in inputs.items() if name != "labels"}
    model, _ = build()
    with torch.no_grad():
        wanted = model(**inputs, output_hidden_states=True)
        assert wanted.logits.shape[:2] == inputs["input_ids"].shape
        assert model(**inputs, skip_logits=True).logits is None
        model.train()
        assert model(**unlabelled).logits is not None
        assert torch.equal(model(**inputs, skip_logits=False).logits, wanted.logits)
        found = model(**inputs, output_hidden_states=True)
        assert found.keys() == wanted.keys() - {"logits"}
        torch.testing.assert_close(found.loss, wanted.loss, rtol=1e-6, atol=0)
        assert torch.equal(found.image_hidden_states, wanted.image_hidden_states)
        for one, other in zip(found.hidden_states, wanted.hidden_states, strict=True):
            assert torch.equal(one, other)
        assert torch.equal(model(**inputs, return_dict=False)[0], found.loss)
        # What is to be kept of logits says nothing about the loss.
        assert torch.equal(model(**inputs, logits_to_keep=1).loss, found.loss)
        with pytest.raises(ValueError, match="without labels"):
            model(**unlabelled, skip_logits=True)
        model.loss_function = lambda logits, labels, **_: logits.sum()
        replaced = model(**inputs)
        assert torch.equal(replaced.loss, replaced.logits.sum())


def test_shifted_labels_and_the_steps_number_of_items_arrive(pair: Pair, build: Callable[..., Pair]) -> None:
    inputs = batch(pair[1])
    shifted = torch.nn.functional.pad(inputs["labels"], (0, 1), value=IGNORE_INDEX)[:, 1:].contiguous()
    model = build()[0].train()
    with torch.no_grad():
        wanted = model(**inputs).loss
        torch.testing.assert_close(model(**inputs, num_items_in_batch=60).loss * 10, wanted)
        other = {**inputs, "labels": torch.zeros_like(shifted), "shift_labels": shifted}
        assert torch.equal(model(**other).loss, wanted)


def test_a_softcap_is_in_logits_and_loss_as_in_the_text_model(build: Callable[..., Pair]) -> None:
    model, processor = build(world_fusion="sequence")
    model.config.text_config.final_logit_softcapping = 2.0
    text = Gemma3ForCausalLM(model.config.text_config).eval()
    text.model, text.lm_head = model.model.language_model, model.lm_head
    inputs = encode(processor, [chat(text="What is it?")])
    inputs = {"input_ids": inputs["input_ids"], "labels": inputs["input_ids"]}
    with torch.no_grad():
        wanted, found = text(**inputs), model(**inputs)
        assert 1 < wanted.logits.abs().max() <= 2
        assert torch.equal(found.logits, wanted.logits)
        torch.testing.assert_close(found.loss, wanted.loss)
        torch.testing.assert_close(model.train()(**inputs).loss, wanted.loss)


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
