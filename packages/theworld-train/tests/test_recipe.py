"""Recipes: every shipped one loads, and what is wrong with one is said in one line that names the field."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from theworld_train.errors import UsageError
from theworld_train.recipe import OptimSettings, Recipe
from theworld_train.recipe_fields import leaves
from theworld_train.recipe_file import dump_recipe, load_recipe, shipped
from theworld_train.recipe_yaml import dump_yaml, load_yaml

SHIPPED = ("align-projector", "datacomp-production", "full-finetune", "micro-world", "smoke", "spatial-sft")


def test_every_recipe_is_shipped_with_a_purpose() -> None:
    assert tuple(shipped()) == SHIPPED
    assert all(len(purpose) > 40 and purpose[0].isupper() for purpose in shipped().values())


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_recipes_load_and_come_back_from_what_is_written_out(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    (tmp_path / "copy.yaml").write_text(text := dump_recipe(recipe), encoding="utf-8")
    again = load_recipe(str(tmp_path / "copy.yaml"))
    assert again == recipe
    assert dump_recipe(again) == text


def test_what_is_written_out_has_every_field() -> None:
    text = dump_recipe(load_recipe("spatial-sft"))
    sections = [leaf.split(".")[-1] for leaf in leaves() if "sources" not in leaf]
    assert all(f"{name}:" in text for name in sections)
    assert load_yaml(text)["stages"][2]["parts"]["language_model"]["lora"] == {
        "rank": 32, "alpha": 64.0, "dropout": 0.05, "targets": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("override", "get", "value"),
    [
        ("optim.lr=2e-5", lambda recipe: recipe.optim.lr, 2e-5),
        ("optim.lr=1", lambda recipe: recipe.optim.lr, 1.0),
        ("stages.0.steps=10", lambda recipe: recipe.stages[0].steps, 10),
        ("stages.0.parts.language_model.lora.rank=8", lambda r: r.stages[0].parts["language_model"].lora.rank, 8),
        ("stages.0.parts.vision_tower={lr: 3.e-3}", lambda r: r.stages[0].parts["vision_tower"].lr, 3e-3),
        ("model.config.world_fusion=gated", lambda recipe: recipe.model.config, {"world_fusion": "gated"}),
        ("log.wandb=2e-5.1", lambda recipe: recipe.log.wandb, "2e-5.1"),
        ("log.wandb='off'", lambda recipe: recipe.log.wandb, "off"),
        ("log.wandb=off", lambda recipe: recipe.log.wandb, "off"),  # false in YAML 1.1
        ("log.wandb=", lambda recipe: recipe.log.wandb, None),
        ("log.wandb=a=b", lambda recipe: recipe.log.wandb, "a=b"),
        ("seed=010", None, 'seed is 10.0. It should be a valid integer'),  # eight in YAML 1.1
        ("stages.0.name=1:30", None, "stages.0.name is \"1:30\""),  # ninety in YAML 1.1
    ],
)  # fmt: skip
def test_overrides(override: str, get: Any, value: Any) -> None:
    if get is None:
        with pytest.raises(UsageError) as error:
            load_recipe("smoke", [override])
        assert str(error.value).startswith(value)
    else:
        found = get(load_recipe("smoke", [override]))
        assert (found, type(found)) == (value, type(value))


def test_later_overrides_win_and_the_whole_recipe_is_checked_after_the_last() -> None:
    recipe = load_recipe("smoke", ["batch.tokens=64", "batch.size=null", "seed=1", "seed=2"])
    assert (recipe.batch.tokens, recipe.batch.size, recipe.seed) == (64, None, 2)


def test_stages_that_share_their_data_by_an_alias_are_changed_one_at_a_time() -> None:
    recipe = load_recipe("spatial-sft", ["stages.1.data.workers=3", "stages.1.data.sources.0.limit=5"])
    assert [stage.data.workers for stage in recipe.stages] == [8, 3, 8]
    assert [stage.data.sources[0].limit for stage in recipe.stages] == [None, 5, None]


def test_merge_keys_are_read() -> None:
    text = "a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: {<<: *a}"
    assert load_yaml(text) == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}, "c": {"x": 1, "y": 2}}


def test_a_revision_of_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"model\.vlm_revision is 'main', but .* is a folder here"):
        load_recipe("smoke", [f"model.vlm={tmp_path}", "model.vlm_revision=main"])


@pytest.mark.parametrize("value", ["2e-5", "on", "1:30", "010", "null", "~", "", "true", "3", " x", "a: b", "<<", "é"])
def test_texts_stay_texts(value: str) -> None:
    assert load_yaml(dump_yaml({"value": value, "list": (value,)})) == {"value": value, "list": [value]}


WRONG = {
    "optim.lrr=1": "optim.lrr is no field. Did you mean optim.lr?",
    "lr=1": "lr is no field. Did you mean optim.lr?",
    "zzz=1": "zzz is no field. Known there: name, seed, model, stages, batch, optim, eval, save, log.",
    "stages.0.stepps=1": "stages.0.stepps is no field. Did you mean stages.0.steps?",
    "stages.0.parts.vison_tower={}":
        "stages.0.parts.vison_tower is no field. Did you mean stages.0.parts.vision_tower?",
    "stages.0.parts.language_model.lora.rnk=4":
        "stages.0.parts.language_model.lora.rnk is no field. Did you mean stages.0.parts.language_model.lora.rank?",
    "stages.0.data.sources.0.group=4":
        "stages.0.data.sources.0.group is no field. Did you mean stages.0.data.sources.0.groups?",
    "stages.0.data.sources.0.kind=micro-wrld":
        'stages.0.data.sources.0.kind is "micro-wrld", which is no choice. Did you mean micro-world?',
    "stages.0.data.sources.0={groups: 1}":
        "stages.0.data.sources.0.kind is missing. Use one of: chat, datacomp, llava-cc3m, vsr, spatial-rgpt, "
        "micro-world.",
    "stages.0.data.sources.0={kind: vsr}": "stages.0.data.sources.0.images is missing. Give it.",
    "stages.0.steps=true": "stages.0.steps is true. It should be a valid integer.",
    "stages.0.steps=1e2": "stages.0.steps is 100.0. It should be a valid integer.",
    "stages.0.steps=0": "stages.0.steps is 0. It should be greater than or equal to 1.",
    "optim.lr=fast": 'optim.lr is "fast". It should be a valid number.',
    "optim.lr=1e999": "optim.lr is Infinity. It should be a finite number.",
    "optim.lr=0": "optim.lr is 0. It should be greater than 0.",
    "model.dtype=float16": "model.dtype is \"float16\". It should be 'bfloat16' or 'float32'.",
    "model.vlm=3": "model.vlm is 3. It should be a valid string.",
    "name=a b": 'name is "a b". Use letters, digits, and _ . - only, and begin with neither . nor -.',
    "stages=[]": "stages is []. Give at least one.",
    "stages.0.data.sources=3": "stages.0.data.sources is 3. It should be a valid list.",
    "optim=3": "optim is 3. It should be a valid mapping.",
    "eval=false": "eval is false. It should be a valid mapping.",
    "stages.0.data.sources.0=3": "stages.0.data.sources.0 is 3. It should be a valid mapping.",
    "stages.1.steps=3": "--set stages.1.steps=3: stages is a list of 1, and 1 is none of its places. Use 0 to 0.",
    "stages.-1.steps=3": "--set stages.-1.steps=3: stages is a list of 1, and -1 is none of its places. Use 0 to 0.",
    "optim.lr.x=3": "--set optim.lr.x=3: optim.lr is 0.001, which has nothing in it. Set optim.lr itself.",
    "optim.lr": "--set optim.lr has no value. Write it as path=value, e.g. optim.lr=2e-5.",
    "optim.lr=[": "--set optim.lr=[: the value is no YAML (line 1, column 2: expected the node content, but found "
        "'<stream end>'). Quote it.",
    "hf_token=x": "hf_token is no field. Known there: name, seed, model, stages, batch, optim, eval, save, log.",
    # The model's own configuration, and encoders.
    "model.config.world_fusoin=gated":
        "model.config.world_fusoin: TheWorldConfig has no field 'world_fusoin'. Did you mean world_fusion?",
    "model.config.world_fusion=gatd": "model.config: world_fusion is 'gatd'. Use one of: sequence, gated, none.",
    "model.config.world_patch=1.5":
        "model.config: Field 'world_patch' expected int, got float (value: 1.5). Give a value of that type.",
    "model.config.world_config={}":
        "model.config.world_config is made from the encoder. Use model.encoder and its settings.",
}  # fmt: skip


@pytest.mark.parametrize(("override", "message"), WRONG.items(), ids=WRONG)
def test_what_is_wrong_is_one_line_with_the_fields_name(override: str, message: str) -> None:
    with pytest.raises(UsageError) as error:
        load_recipe("smoke", [override])
    assert str(error.value) == message


def test_an_unknown_encoder_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"model\.encoder: there is no encoder called 'vjepa3'.*Did you mean vjepa2"):
        load_recipe("smoke", ["model.encoder=vjepa3"])


_OTHER = "{name: two, steps: 2, parts: {world_projector: {}}, data: {sources: [{kind: micro-world}]}}"
_ONE = _OTHER.replace("two", "one")
UNUSED = {
    ("batch.tokens=64",): "batch.size is 1 and batch.tokens is 64. Keep one of them.",
    ("batch.size=null",): "batch has neither size nor tokens. Give one of them.",
    ("batch.row_tokens=64",): "batch.row_tokens is 64, and batch.packing is none. Leave it out, or use samples.",
    ("batch.packing=samples",): "batch.packing is samples, but batch.size is 1: there is nothing to pack.",
    ("batch={tokens: 64, packing: samples, row_tokens: 65}",): "batch.row_tokens is 65, but batch.tokens is 64.",
    ("batch={size: 2, packing: samples, group_by_length: true}",): "batch.group_by_length saves padding, and packing",
    ("batch={size: 2, packing: shared_prefix}", "stages.0.data.shuffle=1"):
        "batch.packing is shared_prefix, which brings rows about one picture together, but data.shuffle is 1",
    ("batch={size: 2, packing: shared_prefix}", "stages.0.data.sources=[{kind: llava-cc3m}]"):
        "batch.packing is shared_prefix, but no source asks about a picture twice: datacomp and llava-cc3m have",
    ("batch.group_by_length=true", "stages.0.data.shuffle=1"): "batch.group_by_length is true, but data.shuffle is 1",
    ("stages.0.parts.world_projector.lr=1",): "optim.lr is 0.001, but every part of every stage has its own. Leave it",
    ("optim.warmup_steps=2",): "optim.warmup_steps is 2, but stage projector has 2 steps.",
    (f"stages=[{_ONE}, {_ONE}]",): "stages.1.name is 'one', an earlier stage's name.",
    ("eval.every=1",): "eval is given, but no stage holds out data.",
    ("eval={every: 1, samples: 0, max_new_tokens: 3}", "stages.0.data.holdout=0.5"): "eval.max_new_tokens is 3, but",
    ("model.vlm_revision=main",): "model.vlm_revision is 'main', but model.vlm is tiny, a pair made here.",
    ("model.world=x",): "model.world is 'x', but model.vlm is tiny",
    ("model.world_revision=x",): "model.world_revision is 'x', but model.vlm is tiny",
    ("model.frame_size=96",): "model.frame_size is 96, but model.vlm is tiny",
    ("stages.0.data.cache=c", "stages.0.parts.world_encoder={}"):
        "stages.0.data.cache holds features of the world encoder, which this stage changes.",
    ("stages.0.data.cache=c", "model.config.world_fusion=none"): "stages.0.data.cache holds world features, and",
    ("model.config={world_fusion: none, num_world_steps: 1}",): "model.config.num_world_steps is for a world branch",
    ("stages.0.parts={language_model: {}}",): "stages.0.parts has no world_projector. Add it",
    ("model.config.world_fusion=none",): "stages.0.parts.world_projector is of the world branch, and",
    ("model.config.world_fusion=none", "stages.0.parts={world_encoder: {}}"):
        "stages.0.parts.world_encoder is of the world branch",
    ("stages.0.parts.world_projector.lora={}",): "stages.0.parts.world_projector.lora adapts weights that are new.",
    (f"stages=[{_ONE}, {_OTHER}]", "stages.0.parts.language_model={}", "stages.1.parts.language_model.lora={}"):
        "stages.1.parts.language_model.lora differs from stages.0.parts.language_model.lora.",
    ("stages.0.data.sources.0.weight=2",): "stages.0.data.sources.0.weight is 2.0, but there is one source.",
}  # fmt: skip


@pytest.mark.parametrize(("overrides", "message"), UNUSED.items(), ids=[" ".join(key) for key in UNUSED])
def test_what_contradicts_or_would_change_nothing_is_refused(overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError) as error:
        load_recipe("smoke", overrides)
    assert str(error.value).startswith(message)
    assert str(error.value).endswith(".")


def test_the_base_vlm_trains_without_a_world_branch() -> None:
    recipe = load_recipe("smoke", ["model.config.world_fusion=none", "stages.0.parts={language_model: {}}"])
    assert not recipe.model.has_world


def test_a_recipe_made_in_python_is_held_to_the_same() -> None:
    with pytest.raises(ValidationError, match="should be a valid integer"):
        OptimSettings(warmup_steps=True)
    content = load_recipe("smoke").model_dump()
    with pytest.raises(ValidationError, match="Keep one of them"):
        Recipe.model_validate({**content, "batch": {"size": 1, "tokens": 2}})


def test_what_is_no_recipe(tmp_path: Path) -> None:
    def refuse(name: str, message: str, content: bytes | None = None) -> None:
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(UsageError) as error:
            load_recipe(str(path) if content is not None else name)
        assert message in str(error.value)
        assert "\n" not in str(error.value)

    refuse("smok", "there is no recipe called 'smok'. Shipped ones: align-projector, ")
    refuse("smok", "Did you mean smoke?")
    refuse("mine", "Or give the path of a file that ends in .yaml.")
    refuse("nowhere/mine.yaml", "the recipe nowhere/mine.yaml cannot be read (No such file or directory).")
    refuse("twice.yaml", "line 2, column 1: name stands here twice. Mend that line.", b"name: a\nname: b\n")
    refuse("nested.yaml", "line 1, column 16: lr stands here twice", b"optim: {lr: 1, lr: 2}")
    refuse("broken.yaml", "is no YAML: line 2, column 2: expected", b"name: [a\nb: c")
    refuse("list.yaml", "holds no fields. Start from a shipped one", b"- a")
    refuse("empty.yaml", "holds no fields", b"")
    refuse("inside.yaml", "is no YAML: an alias stands inside of what it stands for.", b"a: &a [*a]")
    refuse("number.yaml", "is no YAML: the key 1 is no text.", b"1: 2")
    refuse("bytes.yaml", "is no text in UTF-8", b"\xff\xfe")
    refuse("code.yaml", "could not determine a constructor", b"name: !!python/object/apply:os.getcwd []")


def test_fields_are_found_through_lists_mappings_and_kinds() -> None:
    found = list(leaves())
    assert len(found) == len(set(found))
    for leaf in (
        "name",
        "model.config",
        "stages.*.parts.*.lora.rank",
        "stages.*.data.sources.*.vsr.images",
        "eval.every",
    ):
        assert leaf in found


def test_yaml_that_is_too_much_is_one_line(tmp_path: Path) -> None:
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{number}: &a{number} [{', '.join([f'*a{number - 1}'] * 10)}]" for number in range(1, 10)]
    for text, message in (("\n".join(rows), "more than 100000 values"), ("[" * 5000, "stand in each other too deep")):
        (tmp_path / "own.yaml").write_text(text)
        with pytest.raises(UsageError, match=message):
            load_recipe(str(tmp_path / "own.yaml"))


@pytest.mark.parametrize("change", ["name=..", "name=.hidden", "name=-x", "seed=2147483648", "stages.0.name=.."])
def test_values_that_would_fail_later_fail_now(change: str) -> None:
    with pytest.raises(UsageError, match=change.partition("=")[0]):
        load_recipe("smoke", [change])


def test_spaces_around_a_path_are_none_of_it() -> None:
    assert load_recipe("smoke", [" optim.lr = 2e-3"]).optim.lr == 2e-3
