"""Controls at test time are those of training, and a world that does not reach the model is refused."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from theworld_encoders import preprocess
from theworld_fusion import TheWorldForConditionalGeneration, TheWorldProcessor, assemble
from theworld_fusion.modeling_theworld import TheWorldModel
from theworld_fusion.testing import TINY_WORLD, chat, random_clip
from theworld_train.errors import UsageError
from theworld_train.evaluate import item as item_module
from theworld_train.evaluate.arms import ARMS, split_arm, with_control
from theworld_train.evaluate.controls import partners
from theworld_train.evaluate.folder import read_records
from theworld_train.evaluate.prompts import Prompt
from theworld_train.evaluate.runner import run_task
from theworld_train.evaluate.task import Item, Score

Pair = tuple[TheWorldForConditionalGeneration, TheWorldProcessor]


@dataclass
class Clips:
    """Six clips in three groups of two, of one length."""

    name: str = "clips"
    fingerprint: str = "1"

    def items(self) -> list[Item]:
        return [
            Item(
                key=f"clip {number}",
                family="motion",
                messages=chat(random_clip(number), text="Which way is it moving?"),
                answer="up",
                choices=("up", "down"),
                group=f"group {number // 2}",
            )
            for number in range(6)
        ]

    def score(self, item: Item, answer: str) -> Score:
        return Score(value=float(answer == item.answer), parsed=answer)


def likelihoods(pair: Pair, out: Path, **settings: Any) -> list[list[float]]:
    run_task(*pair, Clips(), out, show=False, batch_size=3, **settings)
    return [list((record.likelihoods or {}).values()) for record in read_records(out)]


@pytest.fixture(scope="module")
def on(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> list[list[float]]:
    return likelihoods(pair, tmp_path_factory.mktemp("arms") / "on")


def assembled(folders: tuple[Path, Path], encoder: str, **settings: Any) -> Pair:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return assemble(*folders, encoder=encoder, **{**TINY_WORLD, **settings})


@pytest.mark.parametrize("control", ["zeros", "noise", "shuffled-slots", "image-repeated"])
def test_a_control_at_test_time_is_the_encoder_that_training_has(
    pair: Pair, folders: tuple[Path, Path], tmp_path: Path, on: list[list[float]], control: str
) -> None:
    trained = assembled(folders, f"{control}:cosmos-predict2-vae")
    trained[0].model.world_projector.load_state_dict(pair[0].model.world_projector.state_dict())
    swapped = likelihoods(pair, tmp_path / "swapped", control=control)
    assert swapped == likelihoods(trained, tmp_path / "trained")
    assert swapped == likelihoods(trained, tmp_path / "named", control=control)
    assert swapped != on
    with pytest.raises(UsageError, match=f"was trained with the control {control}"):
        run_task(*trained, Clips(), tmp_path / "other", control="zeros" if control != "zeros" else "noise")


@pytest.mark.parametrize("control", ["random-init", "registers"])
def test_what_has_to_be_trained_with_is_asked_of_a_model_that_was(
    folders: tuple[Path, Path], tmp_path: Path, control: str
) -> None:
    trained = assembled(folders, f"{control}:cosmos-predict2-vae")
    assert likelihoods(trained, tmp_path / "a", control=control) == likelihoods(trained, tmp_path / "b")


def test_other_item_sees_a_clip_of_another_group_and_keeps_its_own_picture(
    pair: Pair, folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items, pixels = Clips().items(), []
    real = Prompt.with_world_pixels

    def seen(self: Prompt, given: Any) -> Prompt:
        pixels.append((self, real(self, given)))
        return pixels[-1][1]

    monkeypatch.setattr(Prompt, "with_world_pixels", seen)
    swapped = likelihoods(pair, tmp_path / "swapped", control="other-item")
    clips = [preprocess(one.messages[0]["content"][0]["video"], pair[1].world_spec) for one in items]
    for number, (own, other) in enumerate(pixels):
        [place] = [place for place, clip in enumerate(clips) if torch.equal(clip, other.pixel_values_world[0])]
        assert place // 2 != number // 2
        assert torch.equal(own.pixel_values_world[0], clips[number])
        assert torch.equal(own.pixel_values, other.pixel_values)
    assert len(pixels) == 6
    assert swapped == likelihoods(pair, tmp_path / "again", control="other-item")
    assert swapped != likelihoods(pair, tmp_path / "seed", control="other-item", seed=5)
    trained = assembled(folders, "other-item:cosmos-predict2-vae")
    assert swapped == likelihoods(trained, tmp_path / "trained")


def test_partners_are_of_another_group_and_of_one_kind() -> None:
    groups, kinds = ["a", "a", "b", "b", "c", "d"], ["clip", "still", "clip", "still", "still", "clip"]
    drawn = [partners(groups, kinds=kinds, seed=seed) for seed in range(40)]
    for others in drawn:
        assert all(groups[place] != groups[other] for place, other in enumerate(others))
        assert all(kinds[place] == kinds[other] for place, other in enumerate(others))
    assert len({tuple(others) for others in drawn}) > 10
    assert drawn[0] == partners(groups, kinds=kinds, seed=0)
    with pytest.raises(ValueError, match="1 group of the kind clip"):
        partners(["a", "b", "a"], kinds=["clip", "still", "clip"], seed=0)


def test_a_partner_of_another_size_is_an_error_of_the_item(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(item_module, "preprocess", lambda medium, spec: preprocess(medium[:5], spec))
    summary = run_task(*pair, Clips(), tmp_path / "out", control="other-item", show=False)
    assert summary.total.errors == 6
    assert "no swap is possible" in str(summary.first_error)


def test_arms_by_name(pair: Pair) -> None:
    assert split_arm("on") == ("on", None)
    assert split_arm("off") == ("off", None)
    assert [split_arm(arm) for arm in ARMS[2:]] == [("on", arm) for arm in ARMS[2:]]
    assert set(ARMS) == {"on", "off", "zeros", "noise", "other-item", "shuffled-slots", "image-repeated"}
    with pytest.raises(UsageError, match="there is no arm 'of'"):
        split_arm("of")
    held = pair[0].model.world_encoder
    with with_control(pair[0], "zeros"):
        assert pair[0].model.world_encoder is not held
    assert pair[0].model.world_encoder is held


def refused(pair: Pair, tmp_path: Path, **settings: Any) -> str:
    with pytest.raises(UsageError, match="the world is on, but") as error:
        run_task(*pair, Clips(), tmp_path / "out", show=False, **settings)
    assert not (tmp_path / "out" / "summary.json").exists()
    return str(error.value)


@pytest.mark.parametrize("method", ["likelihood", "generate"])
def test_a_model_that_leaves_its_world_branch_out_is_refused(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: Any
) -> None:
    real: Callable[..., Any] = TheWorldModel._embed

    def ignoring(self: Any, input_ids: Any, inputs_embeds: Any, image: Any, world: Any) -> Any:
        return real(self, input_ids, inputs_embeds, image, type(world)(pooler_output=[]))

    monkeypatch.setattr(TheWorldModel, "_embed", ignoring)
    assert "do not depend on its world tokens" in refused(pair, tmp_path, method=method)


@pytest.mark.parametrize("method", ["likelihood", "generate"])
def test_a_model_that_leaves_one_item_s_world_out_is_refused(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: Any
) -> None:
    real: Callable[..., Any] = TheWorldModel._embed

    def ignoring(self: Any, input_ids: Any, inputs_embeds: Any, image: Any, world: Any) -> Any:
        embeds = real(self, input_ids, inputs_embeds, image, world).clone()
        if len(embeds) > 1:
            embeds[1] = embeds[1].where((input_ids[1] != self.config.world_token_id)[:, None], 0)
        return embeds

    monkeypatch.setattr(TheWorldModel, "_embed", ignoring)
    assert "do not stand in the language model's input" in refused(pair, tmp_path, method=method)


def test_a_language_model_that_does_not_look_at_its_world_tokens_is_refused(pair: Pair, tmp_path: Path) -> None:
    model = pair[0]
    id_of_world = model.config.world_token_id
    places: list[Any] = []

    def remember(module: Any, inputs: Any, settings: dict[str, Any]) -> None:
        places.append(settings["input_ids"] == id_of_world)

    handles = [
        model.model.register_forward_pre_hook(remember, with_kwargs=True),
        model.model.language_model.layers[0].register_forward_pre_hook(
            lambda module, inputs: (inputs[0].masked_fill(places[-1][..., None], 0.5), *inputs[1:])
        ),
    ]
    try:
        assert "do not depend on its world tokens" in refused(pair, tmp_path)
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("method", ["likelihood", "generate"])
def test_a_gate_is_seen_through_or_refused_while_it_is_closed(
    folders: tuple[Path, Path], tmp_path: Path, method: Any
) -> None:
    model, processor = assembled(folders, "cosmos-predict2-vae", world_fusion="gated", world_tokens_per_item=16)
    assert "Its gate is closed: train it" in refused((model, processor), tmp_path, method=method)
    with torch.no_grad():
        model.model.world_gate.bias.fill_(0.5)
    run_task(model, processor, Clips(), tmp_path / "open", method=method, max_new_tokens=3, show=False)
    for record in read_records(tmp_path / "open"):
        assert (record.world_consumed, record.world_tokens, record.image_tokens) == (True, 16, 16)
        assert "world" not in record.prompt
    likely = [likelihoods((model, processor), tmp_path / name, control=name) for name in ("zeros", "noise")]
    assert likely[0] != likely[1]


def test_a_model_without_a_world_branch_has_the_off_arm_alone(folders: tuple[Path, Path], tmp_path: Path) -> None:
    blind = assembled(folders, "cosmos-predict2-vae", world_fusion="none")
    with pytest.raises(UsageError, match="has no world branch"):
        run_task(*blind, Clips(), tmp_path / "out", show=False)
    likelihoods(blind, tmp_path / "off", world="off")
    manifest = json.loads((tmp_path / "off" / "manifest.json").read_text())
    assert (manifest["evaluation"]["world"], manifest["evaluation"]["control"]) == ("off", None)
