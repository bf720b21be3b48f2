"""Adapters: they hold what was trained and nothing else, and go onto the bases that they were trained on."""

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from theworld_fusion import (
    CheckpointError,
    TheWorldForConditionalGeneration,
    TheWorldProcessor,
    assemble,
    fill_adapter,
    is_adapter,
    is_hub_id,
    load_adapter,
    load_model,
    save_adapter,
)
from theworld_fusion.adapter import DESCRIPTION, WEIGHTS
from theworld_fusion.testing import TINY_WORLD, chat, encode, make_tiny_checkpoint, random_clip, random_picture

Pair = tuple[TheWorldForConditionalGeneration, TheWorldProcessor]
CHATS = [chat(random_clip(1)), chat(random_picture(2), text="And this?")]


def trained(model: torch.nn.Module, *parts: str) -> set[str]:
    """Change the parameters whose names hold one of ``parts``, freeze all others, and return their names."""
    names = set()
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(1)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(any(part in name for part in parts))
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.05)
                names.add(name)
    return names


@torch.no_grad()
def logits(model: Any, processor: TheWorldProcessor) -> torch.Tensor:
    return model(**encode(processor, CHATS)).logits


@pytest.fixture(scope="module")
def adapter(build: Callable[..., Pair], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a trained projector. Not to be changed."""
    model, _ = build()
    trained(model, "world_projector")
    save_adapter(model, folder := tmp_path_factory.mktemp("adapter"))
    return folder


@pytest.fixture
def copy(adapter: Path, tmp_path: Path) -> Path:
    return shutil.copytree(adapter, tmp_path / "copy")


@pytest.mark.parametrize(
    "parts",
    [
        ("world_projector",),
        ("world_projector", "language_model.layers.1"),
        ("world_projector", "embed_tokens"),
        ("world_projector", "vision_tower", "multi_modal_projector"),
        ("world_projector", "world_encoder"),
    ],
)
def test_saved_is_loaded_bit_for_bit_and_only_what_was_trained(
    build: Callable[..., Pair], tmp_path: Path, parts: tuple[str, ...]
) -> None:
    model, processor = build()
    names = trained(model, *parts)
    save_adapter(model, tmp_path)
    assert set(load_file(tmp_path / WEIGHTS)) == names
    loaded, its_processor = load_adapter(tmp_path)
    assert torch.equal(logits(loaded, its_processor), logits(model, processor))
    assert {name for name, parameter in loaded.named_parameters() if parameter.requires_grad} == names
    assert its_processor.world_num_frames == processor.world_num_frames


def test_settings_of_the_assembly_come_back(build: Callable[..., Pair], tmp_path: Path) -> None:
    model, processor = build(world_projector="linear", world_tokens_per_item=16, world_attention="causal", num_frames=5)
    trained(model, "world_projector")
    save_adapter(model, tmp_path)
    loaded, its_processor = load_adapter(tmp_path)
    assert loaded.config.to_dict() == model.config.to_dict()
    assert its_processor.world_num_frames == 5
    assert torch.equal(logits(loaded, its_processor), logits(model, processor))


def test_a_loaded_adapter_can_be_saved_again(adapter: Path, tmp_path: Path) -> None:
    save_adapter(load_adapter(adapter)[0], tmp_path)
    for name in (WEIGHTS, DESCRIPTION):
        assert (tmp_path / name).read_bytes() == (adapter / name).read_bytes()


def test_of_several_processes_one_writes_and_bases_may_be_known_already(
    build: Callable[..., Pair], adapter: Path, tmp_path: Path
) -> None:
    model, _ = build()
    trained(model, "world_projector")
    save_adapter(model, tmp_path / "other", is_main_process=False)
    assert not (tmp_path / "other").exists()
    bases = json.loads((adapter / DESCRIPTION).read_text())["bases"]
    with torch.no_grad():
        model.lm_head.weight.add_(1)  # as if it could not be read any more
    save_adapter(model, tmp_path / "one", bases=bases)
    assert load_file(tmp_path / "one" / WEIGHTS).keys() == load_file(adapter / WEIGHTS).keys()
    assert json.loads((tmp_path / "one" / DESCRIPTION).read_text())["bases"] == bases


def test_dtype_may_differ_from_the_one_it_was_trained_in(adapter: Path) -> None:
    model, processor = load_adapter(adapter, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert logits(model, processor).isfinite().all()


def test_the_projector_is_saved_though_nothing_requires_gradients(build: Callable[..., Pair], tmp_path: Path) -> None:
    model, processor = build()
    model.requires_grad_(False)
    save_adapter(model, tmp_path)
    loaded, its_processor = load_adapter(tmp_path)
    assert torch.equal(logits(loaded, its_processor), logits(model, processor))


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")  # peft asks for it
@pytest.mark.parametrize("through_peft", [False, True])
def test_lora_is_saved_and_merged_equals_it(build: Callable[..., Pair], tmp_path: Path, through_peft: bool) -> None:
    model, processor = build()
    config = peft.LoraConfig(r=2, target_modules=r".*language_model.*\.(q_proj|v_proj)", lora_alpha=4)
    if through_peft:
        wrapped = peft.get_peft_model(model, config)
    else:
        model.add_adapter(config)
        wrapped = model
    trained(model, "world_projector", "lora_")
    save_adapter(wrapped, tmp_path)
    names = set(load_file(tmp_path / WEIGHTS))
    assert any("lora_A" in name for name in names)
    assert not any("base_layer" in name for name in names)
    loaded, its_processor = load_adapter(tmp_path)
    with_lora = logits(wrapped, processor)
    assert torch.equal(logits(loaded, its_processor), with_lora)
    if through_peft:
        torch.testing.assert_close(logits(wrapped.merge_and_unload(), processor), with_lora, atol=1e-4, rtol=1e-4)


def test_a_model_that_was_loaded_whole_has_no_bases(build: Callable[..., Pair], tmp_path: Path) -> None:
    build()[0].save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="loaded whole, so it has no bases"):
        save_adapter(load_model(tmp_path), tmp_path / "adapter")


@pytest.mark.parametrize("base", ["vlm", "world"])
def test_other_bases_are_refused_by_name(adapter: Path, tmp_path: Path, base: str) -> None:
    others = dict(zip(("vlm", "world"), make_tiny_checkpoint(tmp_path, seed=1), strict=True))
    with pytest.raises(CheckpointError, match=f"trained on another {base} than .*load_adapter\\(..., {base}=...\\)"):
        load_adapter(adapter, **{base: others[base]})


def test_bases_may_have_moved(adapter: Path, folders: tuple[Path, Path], tmp_path: Path) -> None:
    vlm, world = (shutil.copytree(folder, tmp_path / folder.name) for folder in folders)
    description = json.loads((adapter / DESCRIPTION).read_text())
    description["assembly"] |= {"vlm": "/gone/vlm", "world": "/gone/world"}
    copy = shutil.copytree(adapter, tmp_path / "copy")
    (copy / DESCRIPTION).write_text(json.dumps(description))
    with pytest.raises(CheckpointError, match="/gone/vlm is no checkpoint here"):
        load_adapter(copy)
    loaded, processor = load_adapter(copy, vlm=vlm, world=world)
    assert torch.equal(logits(loaded, processor), logits(*load_adapter(adapter)))


def edit(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any], *, described: bool = True) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)
    if described:
        description = json.loads((folder / DESCRIPTION).read_text())
        (folder / DESCRIPTION).write_text(json.dumps({**description, "trained": sorted(tensors)}))


BOUNDARIES = "model.world_projector.boundaries.weight"


@pytest.mark.parametrize("described", [True, False])
def test_loading_is_strict_in_both_directions(copy: Path, described: bool) -> None:
    edit(copy, lambda tensors: tensors.pop(BOUNDARIES), described=described)
    with pytest.raises(CheckpointError, match=f"1 weights are not in both .*: {BOUNDARIES}"):
        load_adapter(copy)
    edit(copy, lambda tensors: tensors.update({BOUNDARIES: torch.zeros(2, 96)}))
    edit(copy, lambda tensors: tensors.update({"model.unknown": torch.zeros(1)}), described=described)
    with pytest.raises(CheckpointError, match=r"1 weights are not in both .*: model\.unknown"):
        load_adapter(copy)


def test_another_shape_names_both(copy: Path) -> None:
    edit(copy, lambda tensors: tensors.update({BOUNDARIES: torch.zeros(2, 95)}))
    with pytest.raises(CheckpointError, match=r"boundaries.weight with shape \(2, 95\), the model \(2, 96\)"):
        load_adapter(copy)


def test_a_pickle_is_refused(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "adapter_model.bin")
    with pytest.raises(CheckpointError, match=r"holds adapter_model\.bin, a pickle, which can run code"):
        load_adapter(tmp_path)


def test_what_is_no_adapter(tmp_path: Path, copy: Path) -> None:
    with pytest.raises(CheckpointError, match="so it is no adapter"):
        load_adapter(tmp_path / "nowhere")
    (copy / WEIGHTS).write_bytes(b"")
    with pytest.raises(CheckpointError, match="is no readable adapter"):
        load_adapter(copy)
    (copy / DESCRIPTION).write_text('{"format": 2}')
    save_file({}, copy / WEIGHTS)
    with pytest.raises(CheckpointError, match="has format 2, this version reads 1"):
        load_adapter(copy)


def float32_masters(model: torch.nn.Module, *parts: str) -> set[str]:
    """As training keeps them: those that hold one of ``parts`` float32 and with values that bfloat16 cannot hold."""
    for name, parameter in model.named_parameters():
        if any(part in name for part in parts):
            parameter.data = parameter.data.float()
    return trained(model, *parts)


def test_what_an_earlier_stage_trained_is_saved_though_it_is_frozen_again(
    build: Callable[..., Pair], tmp_path: Path
) -> None:
    model, processor = build()
    names = trained(model, "world_projector", "multi_modal_projector") | trained(model, "language_model.layers.1")
    save_adapter(model, tmp_path, names)
    assert set(load_file(tmp_path / WEIGHTS)) == names
    loaded, its_processor = load_adapter(tmp_path)
    assert torch.equal(logits(loaded, its_processor), logits(model, processor))
    with pytest.raises(CheckpointError, match=r"the model has no model\.typo, which trained names"):
        save_adapter(model, tmp_path, {*names, "model.typo"})


def test_an_adapter_is_filled_into_a_model_that_keeps_float32(build: Callable[..., Pair], tmp_path: Path) -> None:
    parts = ("world_projector", "multi_modal_projector")
    model, _ = build(dtype=torch.bfloat16)
    names = float32_masters(model, *parts)
    save_adapter(model, tmp_path)
    assert {tensor.dtype for tensor in load_file(tmp_path / WEIGHTS).values()} == {torch.float32}
    other, _ = build(dtype=torch.bfloat16)
    for name in float32_masters(other, *parts):
        torch.nn.init.zeros_(dict(other.named_parameters())[name])
    other.requires_grad_(False)
    fill_adapter(other, tmp_path)
    filled, wanted = dict(other.named_parameters()), dict(model.named_parameters())
    assert all(torch.equal(filled[name], wanted[name]) and filled[name].dtype == wanted[name].dtype for name in wanted)
    assert not any(parameter.requires_grad for parameter in filled.values())  # that is for the caller to say
    assert any(not torch.equal(wanted[name], wanted[name].bfloat16().float()) for name in names)
    rounded, _ = load_adapter(tmp_path, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in rounded.parameters()} == {torch.bfloat16}


def test_what_is_filled_in_begins_where_torch_lets_it_begin(
    adapter: Path, build: Callable[..., Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From anywhere in a file, products of few rows are rounded otherwise, and no resumed run is the straight one."""
    odd = {
        name: torch.cat([torch.zeros(1), tensor.flatten()])[1:].view_as(tensor)
        for name, tensor in load_file(adapter / WEIGHTS).items()
    }
    assert all(tensor.data_ptr() % 64 for tensor in odd.values())
    monkeypatch.setattr("theworld_fusion.adapter.load_file", lambda _: odd)
    model, _ = build()
    for name in fill_adapter(model, adapter):
        parameter = model.get_parameter(name)
        assert torch.equal(parameter, odd[name])
        assert parameter.data_ptr() % 64 == 0


@pytest.mark.parametrize("base", ["vlm", "world"])
def test_filling_refuses_other_bases_and_changes_nothing(
    adapter: Path, folders: tuple[Path, Path], tmp_path: Path, base: str
) -> None:
    pair = dict(zip(("vlm", "world"), folders, strict=True))
    others = dict(zip(("vlm", "world"), make_tiny_checkpoint(tmp_path, seed=1), strict=True))
    model, _ = assemble(**{**pair, base: others[base]}, **TINY_WORLD)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    with pytest.raises(CheckpointError, match=f"was trained on another {base} than {others[base]}: their weights"):
        fill_adapter(model, adapter)
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())


def test_filling_refuses_other_settings(adapter: Path, build: Callable[..., Pair]) -> None:
    with pytest.raises(CheckpointError, match="weights are not in both"):
        fill_adapter(build(world_projector="linear")[0], adapter)
    with pytest.raises(CheckpointError, match=r"with shape .*, the model .*Use the encoder and settings"):
        fill_adapter(build(world_tokens_per_item=16)[0], adapter)


def two_adapters(model: Any, ranks: tuple[int, int] = (2, 3), alpha: int = 4) -> None:
    for part, rank in zip(("vision_tower", "language_model"), ranks, strict=True):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Already found a `peft_config`")
            config = peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=rf".*{part}.*\.(q_proj|v_proj)")
            model.add_adapter(config, adapter_name=part)
    model.set_adapter(["vision_tower", "language_model"])


def test_several_lora_adapters_come_back_and_are_all_active(build: Callable[..., Pair], tmp_path: Path) -> None:
    model, processor = build()
    two_adapters(model)
    trained(model, "world_projector", "lora_")
    model.requires_grad_(False)  # LoRA is in no base, so it is saved in any case
    save_adapter(model, tmp_path)
    loaded, its_processor = load_adapter(tmp_path)
    assert torch.equal(logits(loaded, its_processor), logits(model, processor))
    assert set(loaded.active_adapters()) == {"vision_tower", "language_model"}
    filled, _ = build()
    two_adapters(filled)
    fill_adapter(filled, tmp_path)
    assert torch.equal(logits(filled, processor), logits(model, processor))
    made, _ = build()
    fill_adapter(made, tmp_path)  # makes the layers too
    assert torch.equal(logits(made, processor), logits(model, processor))


def test_lora_of_other_settings_is_refused(build: Callable[..., Pair], tmp_path: Path) -> None:
    model, _ = build()
    two_adapters(model)
    save_adapter(model, tmp_path)
    other, _ = build()
    two_adapters(other, ranks=(2, 2))
    with pytest.raises(CheckpointError, match="has LoRA layers 'language_model' with r 3, the model has them with r 2"):
        fill_adapter(other, tmp_path)
    other, _ = build()
    two_adapters(other, alpha=8)
    with pytest.raises(CheckpointError, match=r"with lora_alpha 4, the model has them with .*lora_alpha 8"):
        fill_adapter(other, tmp_path)


def test_a_layer_that_was_trained_under_its_lora_is_no_part_of_the_bases(
    build: Callable[..., Pair], tmp_path: Path
) -> None:
    model, processor = build()
    model.add_adapter(peft.LoraConfig(r=2, target_modules=r".*language_model.*\.q_proj"))
    assert any("base_layer" in name for name in trained(model, "world_projector", "q_proj"))
    save_adapter(model, tmp_path)
    loaded, its_processor = load_adapter(tmp_path)
    assert torch.equal(logits(loaded, its_processor), logits(model, processor))


@pytest.mark.parametrize("recorded", ["absolute", "relative to where the run was started"])
def test_a_run_folder_may_be_moved_with_the_bases_inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorded: str
) -> None:
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "run" if recorded == "absolute" else Path("run")
    vlm, world = make_tiny_checkpoint(run / "tiny")
    model, processor = assemble(vlm, world, **TINY_WORLD)
    save_adapter(model, run / "checkpoint-2")
    shutil.move(run, tmp_path / "elsewhere")
    monkeypatch.chdir("/")
    loaded, its_processor = load_adapter(tmp_path / "elsewhere" / "checkpoint-2")
    assert torch.equal(logits(loaded, its_processor), logits(model, processor))
    shutil.move(tmp_path / "elsewhere" / "tiny", tmp_path / "tiny")
    with pytest.raises(CheckpointError, match="run/tiny/vlm is no checkpoint here"):
        load_adapter(tmp_path / "elsewhere" / "checkpoint-2")


@pytest.mark.parametrize(
    ("source", "is_one"),
    [
        ("google/gemma-3-4b-it", True),
        ("gemma", False),
        ("./me/adapter", False),
        ("/me/adapter", False),
        ("runs/one/checkpoint-2", False),
        ("me/adapter/", False),
        ("../adapter", False),
        ("here/adapter", False),
    ],
)
def test_a_path_is_no_name_on_the_hub(
    source: str, is_one: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here/adapter").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert is_hub_id(source) == is_one


def test_an_adapter_of_the_hub_is_read_from_the_cache_at_one_commit(
    adapter: Path, folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its bases lie in its folder, and one of the same path that happens to be here is not taken for them."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert not is_adapter("me/adapter")
    with pytest.raises(CheckpointError, match=r"me/adapter is no folder here, and the hub gave no adapter .*[^\n]*$"):
        load_adapter("me/adapter")
    commit, repository = "0123456789abcdef0123456789abcdef01234567", tmp_path / "cache/models--me--adapter"
    snapshot = repository / "snapshots" / commit
    shutil.copytree(adapter, snapshot)
    for name, folder in zip(("vlm", "world"), folders, strict=True):
        shutil.copytree(folder, snapshot / "bases" / name)
    description = json.loads((adapter / DESCRIPTION).read_text())
    description["assembly"] |= {name: f"./bases/{name}" for name in ("vlm", "world")}
    description["beside"] = {name: f"bases/{name}" for name in ("vlm", "world")}
    (snapshot / DESCRIPTION).write_text(json.dumps(description))
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(commit)
    make_tiny_checkpoint(tmp_path / "bases", seed=1)
    monkeypatch.chdir(tmp_path)
    assert is_adapter("me/adapter")
    wanted = logits(*load_adapter(adapter))
    for revision in (None, "main", commit):
        assert torch.equal(logits(*load_adapter("me/adapter", revision=revision)), wanted)
    with pytest.raises(CheckpointError, match="the hub gave no adapter"):
        load_adapter("me/adapter", revision="other")
    with pytest.raises(CheckpointError, match="is a folder here, which has no revision main"):
        load_adapter(adapter, revision="main")


def test_the_commit_of_a_base_on_the_hub_is_recorded(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    commit, repository = "0123456789abcdef0123456789abcdef01234567", tmp_path / "models--me--vlm"
    shutil.copytree(folders[0], repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(commit)
    model, _ = assemble("me/vlm", folders[1], **TINY_WORLD)
    assert (model.assembly.vlm, model.assembly.revision) == ("me/vlm", commit)
    assert assemble(*folders, **TINY_WORLD)[0].assembly.revision is None
