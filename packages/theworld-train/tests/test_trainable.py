"""What a stage declares is what trains: exactly those parts, in float32, at their own rates, beside a frozen rest."""

from collections.abc import Callable, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from theworld_fusion import TheWorldForConditionalGeneration, TheWorldProcessor, assemble, fill_adapter, save_adapter
from theworld_fusion.testing import TINY_WORLD, chat, encode, random_clip, random_picture
from theworld_train.errors import UsageError
from theworld_train.parts import PARTS, by_part, part_of
from theworld_train.recipe import LoraSettings, PartName, PartSettings
from theworld_train.trainable import apply_parts, check_trainable, parameter_groups, table, trainable_names

Model = TheWorldForConditionalGeneration
Parts = Mapping[PartName, PartSettings]
Build = Callable[..., tuple[Model, TheWorldProcessor]]

OTHERS: tuple[PartName, ...] = ("vision_tower", "image_projector", "language_model", "world_encoder")
LORA = PartSettings(lora=LoraSettings(rank=2, alpha=4))


@pytest.fixture(scope="module")
def make(folders: tuple[Path, Path]) -> Build:
    def make(**overrides: Any) -> tuple[Model, TheWorldProcessor]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model, processor = assemble(*folders, **{**TINY_WORLD, **overrides})
        if hasattr(model.model, "world_gate"):
            nn.init.ones_(model.model.world_gate.bias)  # closed, it would keep gradients from all behind it
        return model, processor

    return make


def batch(processor: TheWorldProcessor) -> dict[str, Any]:
    inputs = encode(processor, [chat(random_clip(1)), chat(random_picture(2), text="And what is this?")])
    return {**inputs, "labels": inputs["input_ids"].clone()}


def declared(*parts: PartName, lora: bool = False) -> dict[PartName, PartSettings]:
    """Those and the world projector; with LoRA where there are linear layers of published weights."""
    whole = PartSettings()
    return {"world_projector": whole} | {
        part: LORA if lora and part in ("vision_tower", "language_model") else whole for part in parts
    }


def open_lora(model: Model) -> None:
    """LoRA starts as zero, and its first matrix then has no gradient."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        for name, parameter in model.named_parameters():
            if ".lora_B" in name:
                parameter.normal_(std=0.05)


def test_parts_are_all_of_the_model_and_tied_weights_are_counted_once(make: Build) -> None:
    model, _ = make(world_fusion="gated")
    parts = by_part(model)
    assert tuple(parts) == PARTS
    assert sum(len(one) for one in parts.values()) == len(list(model.parameters()))
    assert model.lm_head.weight is model.get_input_embeddings().weight
    inner = model.model
    for part, modules in {
        "vision_tower": [inner.vision_tower],
        "image_projector": [inner.multi_modal_projector],
        "language_model": [inner.language_model],
        "world_encoder": [inner.world_encoder],
        "world_projector": [inner.world_projector, inner.world_gate],
    }.items():
        wanted = {id(parameter) for module in modules for parameter in module.parameters()}
        assert {id(parameter) for parameter in parts[part].values()} == wanted
    assert part_of("lm_head.weight") == "language_model"
    with pytest.raises(UsageError, match="belongs to no part"):
        part_of("model.other.weight")


def test_registers_of_a_control_train_with_the_projector(make: Build) -> None:
    model, _ = make(encoder="registers")
    apply_parts(model, declared(), 1.0)
    assert "model.world_encoder.registers" in trainable_names(model)
    with pytest.raises(UsageError, match="the model has no world_encoder with weights to train"):
        apply_parts(model, declared("world_encoder"), 1.0)


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_exactly_what_is_declared_trains_in_float32_and_the_rest_keeps_its_dtype(
    make: Build, dtype: torch.dtype, lora: bool
) -> None:
    for count in range(len(OTHERS) + 1):
        for parts in combinations(OTHERS, count):
            if count in (2, 3) and "vision_tower" not in parts:
                continue  # enough pairs and triples
            model, _ = make(dtype=dtype)
            rows = {row.part: row for row in apply_parts(model, declared(*parts, lora=lora), 0.5)}
            for part, parameters in by_part(model).items():
                settings = declared(*parts, lora=lora).get(part)
                for name, parameter in parameters.items():
                    wanted = settings is not None and (settings.lora is None or ".lora_" in name)
                    assert parameter.requires_grad == wanted, name
                    assert parameter.dtype == (torch.float32 if wanted else dtype), name
                row = rows[part]
                assert row.parameters == sum(one.numel() for one in parameters.values())
                assert row.trainable == sum(one.numel() for one in parameters.values() if one.requires_grad)
                assert (row.trainable > 0) == (part in parts or part == "world_projector") == (row.lr == 0.5)
            assert model.train().model.world_encoder.training == ("world_encoder" in parts)


def case(*parts: PartName, lora: bool = False) -> Any:
    return pytest.param(parts, lora, id="+".join(parts or ("projector",)) + (" lora" if lora else ""))


@pytest.mark.parametrize("fusion", ["sequence", "gated"])
@pytest.mark.parametrize(
    ("parts", "lora"),
    [
        case(),
        *(case(part) for part in OTHERS),
        case("vision_tower", "image_projector", "language_model"),
        case(*OTHERS),
        case("vision_tower", lora=True),
        case("language_model", lora=True),
        case(*OTHERS, lora=True),
    ],
)
def test_gradients_beside_a_bfloat16_rest_are_those_of_float32(
    make: Build, fusion: str, lora: bool, parts: tuple[PartName, ...]
) -> None:
    mixed, processor = make(world_fusion=fusion, dtype=torch.bfloat16)
    apply_parts(mixed, declared(*parts, lora=lora), 1.0)
    open_lora(mixed)
    exact, _ = make(world_fusion=fusion, dtype=torch.float32)
    apply_parts(exact, declared(*parts, lora=lora), 1.0)
    with torch.no_grad():
        for name, parameter in exact.named_parameters():
            parameter.copy_(dict(mixed.named_parameters())[name])
    inputs = batch(processor)
    exact.train()(**inputs).loss.backward()
    with torch.autocast("cpu", torch.bfloat16):
        loss = mixed.train()(**inputs).loss
    loss.backward()
    for part, parameters in by_part(mixed).items():
        ours = {name: one.grad for name, one in parameters.items() if one.requires_grad}
        if not ours:
            continue
        theirs = dict(exact.named_parameters())
        assert all(grad is not None and grad.dtype == torch.float32 for grad in ours.values())
        a = torch.cat([grad.flatten() for grad in ours.values()])
        b = torch.cat([theirs[name].grad.flatten() for name in ours])
        assert a.isfinite().all()
        assert nn.functional.cosine_similarity(a, b, dim=0) > 0.995, part
        assert float(a.norm() / b.norm()) == pytest.approx(1, abs=0.05), part


@pytest.mark.parametrize(
    ("part", "lora"), [*((part, False) for part in OTHERS), ("vision_tower", True), ("language_model", True)]
)
def test_frozen_parts_stay_bit_for_bit_and_declared_ones_move(make: Build, part: PartName, lora: bool) -> None:
    model, processor = make(dtype=torch.bfloat16)
    rows = apply_parts(model, declared(part, lora=lora), 1e-2)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimiser = torch.optim.AdamW(parameter_groups(model, rows, 0.1))
    inputs = batch(processor)
    model.train()
    for _ in range(3):
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(**inputs).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == trainable_names(model)
    assert {part_of(name) for name in moved} == {part, "world_projector"}


def test_small_steps_are_not_lost_as_they_would_be_in_bfloat16(make: Build) -> None:
    model, _ = make(dtype=torch.bfloat16)
    rows = apply_parts(model, declared("language_model"), 1e-6)
    weight = model.model.language_model.layers[0].mlp.up_proj.weight
    before = weight.detach().clone()
    optimiser = torch.optim.AdamW(parameter_groups(model, rows, 0.0))
    weight.grad = torch.ones_like(weight)
    optimiser.step()
    assert (weight != before).float().mean() > 0.99
    assert (weight.bfloat16() == before.bfloat16()).float().mean() > 0.9


def test_every_part_gets_its_rate_and_only_matrices_of_layers_decay(make: Build) -> None:
    model, _ = make(world_fusion="gated")
    parts: Parts = {
        "world_projector": PartSettings(lr=1.0),
        "vision_tower": PartSettings(lr=2.0),
        "image_projector": PartSettings(lr=3.0),
        "language_model": PartSettings(),
        "world_encoder": PartSettings(lr=4.0),
    }
    rows = apply_parts(model, parts, 5.0)
    optimiser = torch.optim.AdamW(parameter_groups(model, rows, 0.1))
    rate = {id(one): group["lr"] for group in optimiser.param_groups for one in group["params"]}
    decay = {id(one): group["weight_decay"] for group in optimiser.param_groups for one in group["params"]}
    wanted = {"world_projector": 1, "vision_tower": 2, "image_projector": 3, "world_encoder": 4, "language_model": 5}
    for name, parameter in model.named_parameters():
        assert rate[id(parameter)] == wanted[part_of(name)], name
    inner, named = model.model, dict(model.named_parameters())
    decayed = {name for name, parameter in named.items() if decay[id(parameter)]}
    assert "model.language_model.layers.0.mlp.up_proj.weight" in decayed
    assert "model.world_projector.mean.weight" in decayed
    assert "model.multi_modal_projector.mm_input_projection_weight" in decayed
    assert not {name for name in decayed if "norm" in name or "bias" in name}
    assert {name for name in decayed if "embed" in name} == {"model.vision_tower.embeddings.patch_embedding.weight"}
    assert decay[id(inner.language_model.embed_tokens.weight)] == 0
    assert all(decay[id(one)] == 0 for one in inner.world_projector.parameters(recurse=False))
    assert sum(len(group["params"]) for group in optimiser.param_groups) == len(named)
    without = parameter_groups(model, rows, 0.0)
    assert [group["part"] for group in without] == list(PARTS)
    assert sum(len(group["params"]) for group in without) == len(named)


def test_lora_has_its_own_rank_and_targets_for_each_part(make: Build) -> None:
    model, _ = make()
    parts: Parts = {
        "world_projector": PartSettings(),
        "vision_tower": PartSettings(lora=LoraSettings(rank=2, targets=("q_proj", "mlp.fc1"))),
        "language_model": PartSettings(lora=LoraSettings(rank=3, alpha=6, dropout=0.25)),
    }
    rows = apply_parts(model, parts, 1.0)
    assert {row.part: row.lora_rank for row in rows if row.lora_rank} == {"vision_tower": 2, "language_model": 3}
    names = trainable_names(model)
    vision = {name for name in names if name.startswith("model.vision_tower")}
    assert {name.split(".lora_")[0].rpartition(".")[2] for name in vision} == {"q_proj", "fc1"}
    language = {name for name in names if name.startswith("model.language_model")}
    assert {name.split(".lora_")[0].rpartition(".")[2] for name in language} == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    }  # fmt: skip
    layer: Any = model.model.language_model.layers[0].self_attn.q_proj
    assert layer.lora_A["language_model"].out_features == 3
    assert layer.scaling["language_model"] == 2
    assert layer.lora_dropout["language_model"].p == 0.25
    tower: Any = model.model.vision_tower.encoder.layers[0].self_attn.q_proj
    assert (tower.lora_A["vision_tower"].out_features, tower.scaling["vision_tower"]) == (2, 16)


def test_both_adapters_are_active(make: Build) -> None:
    model, processor = make()
    inputs = batch(processor)
    apply_parts(model, declared("vision_tower", "language_model", lora=True), 1.0)
    model.eval()
    with torch.no_grad():
        plain = model(**inputs).logits
        for part in ("vision_tower", "language_model"):
            weights = [one for name, one in by_part(model)[part].items() if ".lora_B" in name]
            for weight in weights:
                weight.fill_(0.02)
            assert not torch.equal(model(**inputs).logits, plain), part
            for weight in weights:
                weight.zero_()
        assert torch.equal(model(**inputs).logits, plain)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"image_projector": LORA}, "image_projector has no linear layers for parts.image_projector.lora."),
        (
            {"language_model": PartSettings(lora=LoraSettings(targets=("q_prj",)))},
            "parts.language_model.lora.targets has 'q_prj', no linear layer of language_model. Did you mean q_proj?",
        ),
        (
            {"vision_tower": PartSettings(lora=LoraSettings(targets=("up_proj",)))},
            "parts.vision_tower.lora.targets has 'up_proj', no linear layer of vision_tower.",
        ),
    ],
)
def test_lora_that_cannot_be(make: Build, parts: Parts, message: str) -> None:
    with pytest.raises(UsageError, match=message.replace(".", r"\.")):
        apply_parts(make()[0], parts, 1.0)


def test_a_later_stage_goes_on_with_the_same_lora_and_keeps_it_when_frozen(make: Build) -> None:
    model, _ = make(dtype=torch.bfloat16)
    apply_parts(model, declared("language_model", lora=True), 1.0)
    lora = {name for name in trainable_names(model) if ".lora_" in name}
    apply_parts(model, declared("vision_tower"), 1.0)
    assert not lora & trainable_names(model)
    assert all(dict(model.named_parameters())[name].dtype == torch.float32 for name in lora)
    apply_parts(model, declared("language_model", lora=True), 1.0)
    assert lora < trainable_names(model)
    assert model.model.vision_tower.encoder.layers[0].mlp.fc1.weight.dtype == torch.float32  # it was trained once
    with pytest.raises(UsageError, match=r"language_model has LoRA layers, so parts\.language_model has to"):
        apply_parts(model, declared("language_model"), 1.0)
    with pytest.raises(UsageError, match=r"has LoRA layers of rank 2, alpha 4\.0 and dropout 0\.0; .* asks for 3"):
        apply_parts(model, {"language_model": PartSettings(lora=LoraSettings(rank=3, alpha=4))}, 1.0)


def test_without_lora_peft_is_not_needed_and_with_it_the_command_is_named(
    make: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    model, _ = make()
    apply_parts(model, declared(*OTHERS), 1.0)
    with pytest.raises(UsageError, match=r'pip install "theworld-fusion\[lora\]"'):
        apply_parts(make()[0], {"language_model": LORA}, 1.0)


def test_what_trains_otherwise_than_declared_is_named(make: Build) -> None:
    model, _ = make(dtype=torch.bfloat16)
    apply_parts(model, declared(), 1.0)
    wanted = trainable_names(model)
    model.model.vision_tower.requires_grad_(True)
    with pytest.raises(UsageError, match=r"parameters are not as declared: model\.vision_tower.*trainable but not"):
        check_trainable(model, wanted)
    apply_parts(model, declared(), 1.0)
    model.model.world_projector.mean.requires_grad_(False)
    with pytest.raises(UsageError, match=r"1 parameters .* model\.world_projector\.mean\.weight \(declared but frozen"):
        check_trainable(model, wanted)
    apply_parts(model, declared(), 1.0)
    model.to(torch.bfloat16)
    with pytest.raises(UsageError, match="trainable parameters are not float32"):
        check_trainable(model, wanted)


def test_the_table_has_every_part_and_the_sum(make: Build) -> None:
    model, _ = make(dtype=torch.bfloat16)
    rows = apply_parts(model, declared("language_model", lora=True) | {"world_projector": PartSettings(lr=2e-3)}, 1e-4)
    lines = table(rows).splitlines()
    assert lines[0].split() == ["part", "parameters", "trainable", "learning", "rate", "dtype"]
    assert [line.split()[0] for line in lines[1:]] == [*PARTS, "all"]
    assert lines[1].split()[2:] == ["0", "frozen", "bfloat16"]
    assert "0.0001" in lines[3]
    assert lines[3].endswith("bfloat16, float32 (LoRA, rank 2)")
    assert f"{sum(one.numel() for one in model.parameters()):,}" in lines[-1]


def test_a_run_that_goes_on_has_the_same_model_as_one_that_never_stopped(make: Build, tmp_path: Path) -> None:
    """Two stages; the second freezes what the first trained; its checkpoint is filled into a new model."""
    stages = declared("image_projector", "language_model", lora=True), declared("vision_tower")
    straight, processor = make(dtype=torch.bfloat16)
    trained = set[str]()
    for parts in stages:
        apply_parts(straight, parts, 1.0)
        trained |= trainable_names(straight)
        with torch.no_grad():
            for parameter in straight.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter) * 1e-3)
    save_adapter(straight, tmp_path, trained)
    resumed, _ = make(dtype=torch.bfloat16)
    for parts in stages:
        apply_parts(resumed, parts, 1.0)
    fill_adapter(resumed, tmp_path)
    assert trainable_names(resumed) == trainable_names(straight)
    ours, theirs = dict(resumed.named_parameters()), dict(straight.named_parameters())
    assert ours.keys() == theirs.keys()
    for name, parameter in ours.items():
        assert parameter.dtype == theirs[name].dtype, name
        assert torch.equal(parameter, theirs[name]), name
    inputs = batch(processor)
    with torch.no_grad():
        assert torch.equal(resumed(**inputs).logits, straight(**inputs).logits)
