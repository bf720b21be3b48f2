# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportArgumentType=false
# transformers annotates generate, processors and from_pretrained otherwise than they are.
"""Tools around the model find an ordinary Hugging Face model: pipeline, Trainer, checkpointing of gradients, peft."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel, ProcessorMixin, Trainer, TrainingArguments, pipeline

from theworld_fusion import TheWorldForConditionalGeneration, TheWorldProcessor
from theworld_fusion.testing import chat, encode
from theworld_fusion.testing import random_clip as clip
from theworld_fusion.testing import random_picture as picture

Pair = tuple[TheWorldForConditionalGeneration, TheWorldProcessor]
Inputs = dict[str, Any]

CHATS = [chat(picture(0), clip(1)), chat(text="What colour is it?"), chat(clip(2), text="Which way is it moving?")]
LORA: dict[str, Any] = {"r": 2, "lora_alpha": 8, "target_modules": r".*language_model.*\.(q_proj|v_proj)"}


@torch.no_grad()
def logits(model: Any, inputs: Inputs) -> Tensor:
    return model(**inputs).logits


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


@pytest.fixture
def own(build_open: Callable[..., Pair], fusion: str) -> Pair:
    """A model for one test, which may change it; the vision tower is frozen, as the world encoder is."""
    model, processor = build_open(world_fusion=fusion)
    model.model.vision_tower.requires_grad_(False)
    return model, processor


# Pipelines


@pytest.fixture(scope="module")
def answerer(lively: Pair) -> Any:
    model, processor = lively
    return pipeline("image-text-to-text", model=model, processor=processor)


def told(answers: Any) -> list[str]:
    return [answer["generated_text"] for row in answers for answer in (row if isinstance(row, list) else [row])]


def direct(pair: Pair, inputs: Inputs) -> list[str]:
    """What generate says without a pipeline."""
    model, processor = pair
    ids = model.generate(**inputs, max_new_tokens=8, do_sample=False)[:, inputs["input_ids"].shape[1] :]
    return processor.batch_decode(ids, skip_special_tokens=True)


ASKED = {"return_full_text": False, "generate_kwargs": {"max_new_tokens": 8, "do_sample": False}}


@pytest.mark.parametrize("messages", CHATS)
def test_a_pipeline_answers_a_chat_as_generate_does(lively: Pair, answerer: Any, messages: Any) -> None:
    assert told(answerer(text=messages, **ASKED)) == direct(lively, encode(lively[1], messages))


def test_a_pipeline_sees_the_world_unless_it_is_turned_off(lively: Pair, answerer: Any) -> None:
    on = told(answerer(text=CHATS[2], **ASKED))
    off = told(answerer(text=CHATS[2], processor_kwargs={"world": "off"}, **ASKED))
    assert on != off
    assert off == direct(lively, encode(lively[1], CHATS[2], world="off"))


def test_a_pipeline_takes_several_chats(lively: Pair, answerer: Any) -> None:
    wanted = [text for messages in CHATS for text in direct(lively, encode(lively[1], messages))]
    assert told(answerer(text=CHATS, **ASKED)) == wanted


def test_a_pipeline_takes_plain_text_and_pictures_in_batches(lively: Pair, answerer: Any) -> None:
    processor = lively[1]
    pictures = [picture(seed) for seed in range(4)]
    texts = [f"{processor.boi_token} {question}" for question in ("What is it?", "Which colour is it?") * 2]
    batch = processor(images=pictures, text=texts, padding=True, return_tensors="pt")
    wanted = direct(lively, dict(batch))
    assert told(answerer(images=pictures, text=texts, **ASKED)) == wanted
    single = answerer(images=pictures[1], text=texts[1], **ASKED)
    assert told(single) == direct(lively, dict(processor(images=pictures[1], text=texts[1], return_tensors="pt")))
    off = answerer(images=pictures, text=texts, processor_kwargs={"world": "off"}, **ASKED)
    assert all(one != other for one, other in zip(told(off), wanted, strict=True))


# Trainer


def examples(processor: TheWorldProcessor) -> list[Inputs]:
    """Four prompts of one length with their labels, and a column that no model takes."""
    rows = []
    for seed in range(4):
        inputs = encode(processor, chat(clip(seed)))
        row = {key: value if key.startswith("pixel_values") else value[0] for key, value in inputs.items()}
        labels = torch.full_like(row["input_ids"], -100)
        labels[-8:] = row["input_ids"][-8:]
        rows.append({**row, "labels": labels, "note": "not for the model"})
    return rows


def collate(rows: list[Inputs]) -> Inputs:
    assert "note" not in rows[0]
    join = {True: torch.cat, False: torch.stack}
    return {key: join[key.startswith("pixel_values")]([row[key] for row in rows]) for key in rows[0]}


def trainer(pair: Pair, folder: Path, **settings: Any) -> Trainer:
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=2,
        save_steps=1,
        per_device_train_batch_size=2,
        per_device_eval_batch_size=2,
        learning_rate=1e-2,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
        **settings,
    )
    rows = examples(pair[1])
    return Trainer(pair[0], arguments, data_collator=collate, train_dataset=rows, eval_dataset=rows)


def test_the_trainer_trains_evaluates_and_saves(own: Pair, tmp_path: Path) -> None:
    model, processor = own
    before = state(model)
    straight = trainer(own, tmp_path)
    straight.train()
    moved = changed(before, state(model))
    frozen = {name for name in before if ".world_encoder." in name or ".vision_tower." in name}
    assert frozen
    assert not moved & frozen
    assert {name.split(".")[1] for name in moved} >= {"world_projector", "multi_modal_projector", "language_model"}
    one, two = (TheWorldForConditionalGeneration.from_pretrained(tmp_path / f"checkpoint-{step}") for step in (1, 2))
    assert not changed(state(model), state(two))
    assert changed(state(one), state(two)) == moved
    loss = straight.evaluate()["eval_loss"]
    with torch.no_grad():
        halves = [examples(processor)[:2], examples(processor)[2:]]
        batches = [collate([{k: v for k, v in row.items() if k != "note"} for row in half]) for half in halves]
        wanted = [model.eval()(**batch).loss for batch in batches]
    assert loss == pytest.approx(float(torch.stack(wanted).mean()), rel=1e-4)


def test_a_resumed_training_ends_where_a_straight_one_does(
    build_open: Callable[..., Pair], own: Pair, fusion: str, tmp_path: Path
) -> None:
    model, processor = own
    trainer(own, tmp_path / "straight").train()
    again, _ = build_open(world_fusion=fusion)
    again.model.vision_tower.requires_grad_(False)
    resumed = trainer((again, processor), tmp_path / "resumed")
    resumed.train(resume_from_checkpoint=str(tmp_path / "straight" / "checkpoint-1"))
    assert resumed.state.global_step == 2
    assert not changed(state(model), state(again))


def test_what_the_trainer_predicts_are_the_logits(own: Pair, tmp_path: Path) -> None:
    model, processor = own
    found = trainer(own, tmp_path).predict(examples(processor)).predictions
    found = found[0] if isinstance(found, tuple) else found
    row = encode(processor, chat(clip(3)))
    torch.testing.assert_close(torch.from_numpy(found[3:]), logits(model.eval(), row), rtol=0, atol=1e-4)


# Gradients


def gradients(model: TheWorldForConditionalGeneration, inputs: Inputs) -> dict[str, Tensor]:
    model.zero_grad()
    model(**inputs, labels=inputs["input_ids"]).loss.backward()
    return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}


def test_gradient_checkpointing_changes_no_gradient(own: Pair) -> None:
    model, processor = own
    model.train()
    inputs = encode(processor, CHATS)
    plain = gradients(model, inputs)
    runs: list[int] = []
    model.model.language_model.layers[0].mlp.register_forward_hook(lambda *_: runs.append(1))
    model.activation_checkpointing_enable()
    checkpointed = gradients(model, inputs)
    assert len(runs) == 2  # once forwards, once more to go back
    assert set(plain) == set(checkpointed)
    parts = {name for name, _ in model.model.named_children()}
    assert {name.split(".")[1] for name in plain} == parts - {"vision_tower", "world_encoder"}
    for name, value in plain.items():
        torch.testing.assert_close(checkpointed[name], value, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("trained", [False, True])
def test_checkpointing_runs_a_tower_again_only_where_it_is_trained(own: Pair, trained: bool) -> None:
    model, processor = own
    model.train()
    tower = model.model.vision_tower.requires_grad_(trained)
    runs: list[bool] = []
    for layer in tower.encoder.layers:
        layer.layer_norm1.register_forward_hook(lambda _module, _inputs, output: runs.append(output.requires_grad))
    model.activation_checkpointing_enable()
    gradients(model, encode(processor, CHATS))
    number = len(tower.encoder.layers)
    assert runs == ([True] * 2 * number if trained else [False] * number)
    model.activation_checkpointing_disable()
    model.disable_input_require_grads()
    assert not any(module._forward_hooks for module in (tower.embeddings, model.get_input_embeddings()))


# peft

quiet = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")  # peft asks for it


def one_step(model: nn.Module, inputs: Inputs) -> set[str]:
    """Names of what a training step changed."""
    before = state(model)
    optimizer = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], lr=0.1)
    for _ in range(2):  # in the first step LoRA's A gets no gradient, because its B is zero
        optimizer.zero_grad()
        model(**inputs, labels=inputs["input_ids"]).loss.backward()
        optimizer.step()
    return changed(before, state(model))


@quiet
def test_lora_through_peft_is_trained_saved_loaded_and_merged(
    build_open: Callable[..., Pair], own: Pair, fusion: str, tmp_path: Path
) -> None:
    model, processor = own
    inputs = encode(processor, CHATS)
    plain = logits(model, inputs)
    wrapped = peft.get_peft_model(model, peft.LoraConfig(**LORA, modules_to_save=["world_projector"]))
    torch.testing.assert_close(logits(wrapped, inputs), plain, rtol=0, atol=1e-5)
    moved = one_step(wrapped, inputs)
    assert all("lora_" in name or "world_projector.modules_to_save" in name for name in moved)
    assert len({"lora_" in name for name in moved}) == 2
    adapted = logits(wrapped.eval(), inputs)
    assert (adapted - plain).abs().max() > 0.1
    wrapped.save_pretrained(tmp_path)
    loaded = peft.PeftModel.from_pretrained(build_open(world_fusion=fusion)[0], tmp_path)
    assert torch.equal(logits(loaded.eval(), inputs), adapted)
    merged = wrapped.merge_and_unload()
    assert isinstance(merged, TheWorldForConditionalGeneration)
    torch.testing.assert_close(logits(merged, inputs), adapted, rtol=1e-4, atol=1e-3)


@quiet
def test_lora_through_add_adapter_is_trained_saved_loaded_and_turned_off(
    build_open: Callable[..., Pair], own: Pair, fusion: str, tmp_path: Path
) -> None:
    model, processor = own
    inputs = encode(processor, CHATS)
    plain = logits(model, inputs)
    model.add_adapter(peft.LoraConfig(**LORA))
    moved = one_step(model, inputs)
    assert moved
    assert all("lora_" in name for name in moved)
    adapted = logits(model.eval(), inputs)
    model.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} >= {"adapter_config.json", "adapter_model.safetensors"}
    loaded, _ = build_open(world_fusion=fusion)
    loaded.load_adapter(str(tmp_path))
    assert torch.equal(logits(loaded, inputs), adapted)
    loaded.disable_adapters()
    assert torch.equal(logits(loaded, inputs), plain)


@quiet
def test_lora_on_every_linear_layer_reaches_the_projector_too(own: Pair) -> None:
    model, processor = own
    wrapped = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules="all-linear"))
    moved = one_step(wrapped, encode(processor, CHATS))
    assert all("lora_" in name for name in moved)
    assert any("world_projector" in name for name in moved)


# The class itself


@pytest.mark.parametrize(
    ("name", "owner"),
    [
        ("push_to_hub", PreTrainedModel),
        ("save_pretrained", PreTrainedModel),
        ("from_pretrained", PreTrainedModel),
        ("generate", GenerationMixin),
    ],
)
def test_the_models_entry_points_are_transformers_own(name: str, owner: type) -> None:
    ours, theirs = (getattr(cls, name) for cls in (TheWorldForConditionalGeneration, owner))
    assert getattr(ours, "__func__", ours) is getattr(theirs, "__func__", theirs)
    assert TheWorldProcessor.push_to_hub is ProcessorMixin.push_to_hub


def test_a_pickled_model_answers_alike(lively: Pair) -> None:
    model, processor = pickle.loads(pickle.dumps(lively))
    assert torch.equal(logits(model, encode(processor, CHATS)), logits(lively[0], encode(lively[1], CHATS)))


def test_a_deep_copy_answers_alike_and_is_its_own(lively: Pair) -> None:
    model, processor = lively
    inputs = encode(processor, CHATS)
    twin = copy.deepcopy(model)
    assert torch.equal(logits(twin, inputs), logits(model, inputs))
    with torch.no_grad():
        twin.model.world_projector.norm.weight.mul_(2)
    assert not torch.equal(logits(twin, inputs), logits(model, inputs))
