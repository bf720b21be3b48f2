"""Sensitivity: exact where the truth is known, and the model is left as it was."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from theworld_fusion import TheWorldForConditionalGeneration, TheWorldProcessor, assemble
from theworld_fusion.testing import TINY_WORLD, chat, random_clip, random_picture
from theworld_train.data import Collator, Example
from theworld_train.data.features import with_world_features
from theworld_train.errors import UsageError
from theworld_train.evaluate.sensitivity import SensitivitySettings, measure, write_report
from theworld_train.evaluate.sensitivity.attention import KINDS, attention_mass, kinds_of
from theworld_train.evaluate.sensitivity.changes import others, regions, shuffled, without_region
from theworld_train.evaluate.sensitivity.likelihood import log_probabilities, make_prompt
from theworld_train.evaluate.sensitivity.report import notes
from theworld_train.evaluate.sensitivity.result import CHANGES, Measured, Sensitivity, verdict

Pair = tuple[TheWorldForConditionalGeneration, TheWorldProcessor]
Run = Callable[..., Any]


def asked(*items: Any, answer: str = "left", group: str = "") -> Example:
    turns = [*chat(*items), {"role": "assistant", "content": answer}]
    return Example(messages=turns, key=group, group=group)


EXAMPLES = [asked(random_clip(seed), answer=word, group=word) for seed, word in enumerate(("left", "right", "up"))]


@pytest.fixture(scope="module")
def encoded(pair: Pair) -> list[Example]:
    return list(with_world_features(EXAMPLES, pair[0].model.world_encoder, pair[1]))


@pytest.fixture(scope="module")
def result(pair: Pair) -> Sensitivity:
    return measure(*pair, EXAMPLES, SensitivitySettings(maps=1, cells=3))


def test_log_probabilities_are_those_of_the_whole_forward_on_and_off(pair: Pair, encoded: list[Example]) -> None:
    model, processor = pair
    for world in ("on", "off"):
        batch: dict[str, Any] = Collator(processor, world=world)([encoded[0]])  # pyright: ignore[reportArgumentType]
        labels = batch.pop("labels")[0, 1:]
        with torch.no_grad():
            logits = model(**batch).logits[0, :-1]
        wanted = logits.log_softmax(-1)[labels >= 0].gather(-1, labels[labels >= 0][:, None])[:, 0]
        prompt = make_prompt(model, processor, encoded[0], world=world)  # pyright: ignore[reportArgumentType]
        features = encoded[0].world_features if world == "on" else None
        torch.testing.assert_close(log_probabilities(model, prompt, features), wanted)
    assert len(wanted) == 2
    assert not (batch["input_ids"] == processor.world_token_id).any()


def test_unchanged_is_exactly_zero_and_the_others_are_not(result: Sensitivity) -> None:
    for one in result.examples:
        assert one.changes["unchanged"] == 0
        assert all(one.changes[name] != 0 for name in CHANGES if name != "unchanged")
    effects = result.effects()
    assert list(effects) == list(CHANGES)
    assert (effects["unchanged"].low, effects["unchanged"].high) == (0, 0)
    assert effects["removed"].mean == pytest.approx(np.mean([one.changes["removed"] for one in result.examples]))


def test_with_a_projector_of_zeros_no_change_of_the_features_changes_anything(build: Callable[[], Pair]) -> None:
    model, processor = build()
    with torch.no_grad():
        model.model.world_projector.norm.weight.zero_()
    found = measure(model, processor, EXAMPLES, SensitivitySettings(maps=3, cells=2))
    for one in found.examples:
        assert all(change == 0 for name, change in one.changes.items() if name != "removed")
        assert not np.any([item.drops for item in one.maps])


def test_only_the_region_that_says_something_is_worth_something(pair: Pair, encoded: list[Example]) -> None:
    model, processor = pair
    features = torch.zeros_like(encoded[0].world_features[0])
    features[:, 4, 1] = 3.0
    example = replace(encoded[0], world_features=(features,))
    prompt = make_prompt(model, processor, example, world="on")
    before = log_probabilities(model, prompt, (features,)).sum()
    for fill in ("zeros", "mean"):
        drops = torch.zeros(3, 3)
        for row, column, down, across in regions(6, 6, 3):
            changed = without_region(features, down, across, fill)  # pyright: ignore[reportArgumentType]
            drops[row, column] = (before - log_probabilities(model, prompt, (changed,)).sum()).abs()
        assert drops.argmax() == 2 * 3 + 0
        assert (fill == "mean") or int((drops > 0).sum()) == 1


@pytest.mark.parametrize(("rows", "columns", "cells"), [(6, 6, 4), (5, 7, 3), (2, 3, 7)])
def test_every_place_is_in_one_region(rows: int, columns: int, cells: int) -> None:
    covered = np.zeros((rows, columns), int)
    for _, _, down, across in regions(rows, columns, cells):
        covered[down, across] += 1
        assert covered[down, across].size
    assert (covered == 1).all()


def test_shuffled_moves_places_and_keeps_frames() -> None:
    features = torch.arange(2 * 3 * 4 * 5.0).reshape(2, 3, 4, 5)
    moved = shuffled(features)
    assert not torch.equal(moved, features)
    for frame in range(2):
        one, other = (item[frame].flatten(0, 1) for item in (moved, features))
        assert torch.equal(one[one[:, 0].argsort()], other)
    assert torch.equal(shuffled(features), moved)


def test_the_other_example_has_the_same_shape_and_another_group() -> None:
    clip, picture = torch.zeros(3, 6, 6, 2), torch.zeros(1, 6, 6, 2)
    examples = [
        replace(asked(group=group), world_features=(item + number,))
        for number, (group, item) in enumerate([("a", clip), ("a", clip), ("b", clip), ("c", picture)])
    ]
    found = others(examples, seed=0)
    assert [None if one is None else float(one[0].max()) for one in found][:2] == [2, 2]
    assert float(found[2][0].max()) in (0, 1)  # pyright: ignore[reportOptionalSubscript]
    assert found[3] is None


def test_attention_adds_up_and_the_model_attends_as_before(pair: Pair, encoded: list[Example]) -> None:
    model, processor = pair
    before = model.model.language_model.config._attn_implementation
    assert before != "eager"
    for world in ("on", "off"):
        prompt = make_prompt(model, processor, encoded[0], world=world)  # pyright: ignore[reportArgumentType]
        mass, shares = attention_mass(model, prompt, encoded[0].world_features if world == "on" else None)
        assert mass.shape == (2, len(KINDS))
        torch.testing.assert_close(mass.sum(-1), torch.ones(2))
        assert float(shares.sum()) == pytest.approx(1)
        assert bool((mass[:, 0] > 0).any()) == (float(shares[0]) > 0) == (world == "on")
    assert model.model.language_model.config._attn_implementation == before


def test_kinds_of_tokens(pair: Pair, encoded: list[Example]) -> None:
    model, processor = pair
    prompt = make_prompt(model, processor, encoded[0], world="on")
    kinds = kinds_of(prompt.inputs["input_ids"][0], model.config)
    numbers = dict(zip(KINDS, torch.bincount(kinds, minlength=4).tolist(), strict=True))
    assert (numbers["world"], numbers["image"], numbers["BOS"]) == (27 + 2, 16 + 2, 1)


def test_a_gated_model_has_no_world_tokens_and_the_report_says_so(folders: tuple[Path, Path], tmp_path: Path) -> None:
    model, processor = assemble(*folders, **TINY_WORLD, world_fusion="gated")
    with torch.no_grad():
        model.model.world_gate.bias.fill_(1.0)
    found = measure(model, processor, EXAMPLES[:2], SensitivitySettings(maps=1, cells=2))
    assert found.examples[0].changes["removed"] != 0
    assert found.examples[0].changes["unchanged"] == 0
    assert found.examples[0].attention[0][0] == 0
    assert any("no world tokens to attend to" in note for note in notes(found))
    asked_only = [replace(EXAMPLES[0], messages=EXAMPLES[0].messages[:1])]
    assert measure(model, processor, asked_only, SensitivitySettings(maps=0, max_new_tokens=3)).own_answers


def test_a_model_without_a_world_is_refused(folders: tuple[Path, Path]) -> None:
    model, processor = assemble(*folders, **TINY_WORLD, world_fusion="none")
    with pytest.raises(UsageError, match="no world branch"):
        measure(model, processor, EXAMPLES)


def test_one_example_alone_and_several_items(pair: Pair) -> None:
    found = measure(*pair, [asked(random_picture(0), random_clip(1)), asked()], SensitivitySettings(cells=2))
    assert found.left_out == 1
    assert "other-item" not in found.effects()
    assert [one.item for one in found.examples[0].maps] == [0, 1]
    assert found.effects()["removed"].low is None
    assert any("Left out: other-item" in note for note in notes(found))
    with pytest.raises(UsageError, match="none of 1 examples has a picture"):
        measure(*pair, [asked()])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ([0.0, 0.001, -0.002], "does not move"),
        ([-1.0, -2.0, -1.5], "speaks for them"),
        ([1.0, 2.0, 1.5], "speaks against them"),
        ([-5.0, 5.0, 0.1], "cannot be told from 0"),
    ],
)
def test_the_verdict(changes: list[float], words: str) -> None:
    examples = [
        Measured(
            key=str(n), group=str(n), question="", answer="", tokens=1, log_probability=0, changes={"removed": one}
        )
        for n, one in enumerate(changes)
    ]
    found = Sensitivity(
        model="", fusion="sequence", fill="mean", own_answers=False, left_out=0, seed=0, examples=examples
    )
    assert words in verdict(found.effects(), own=False)


def test_the_report_stands_alone(result: Sensitivity, tmp_path: Path) -> None:
    write_report(result, tmp_path)
    page = (tmp_path / "sensitivity.html").read_text()
    assert page.count("data:image/png;base64,") == 3
    assert "http" not in page
    found = json.loads((tmp_path / "sensitivity.json").read_text())
    assert found["effects"]["unchanged"]["mean"] == 0
    assert np.shape(found["examples"][0]["maps"][0]["drops"]) == (3, 3)
    assert "removed" in (tmp_path / "sensitivity.md").read_text()
    assert (tmp_path / "map-000-0.png").exists()


def test_the_command(theworld: Run, checkpoint: Path, tmp_path: Path) -> None:
    random_picture(0, (90, 60)).save(tmp_path / "a.png")
    arguments = ("sensitivity", "--model", checkpoint, "--maps", 1, "--cells", 2)
    one = theworld(
        *arguments, "--image", tmp_path / "a.png", "What is it?", "--answer", "a cat", "--out", tmp_path / "1"
    )
    assert one.code == 0, one.err
    assert "when its world input is removed" in one.out
    lines = [{"messages": [*chat(str(tmp_path / "a.png")), {"role": "assistant", "content": word}]} for word in "ab"]
    (tmp_path / "chats.jsonl").write_text("\n".join(map(json.dumps, lines)))
    chats = theworld(*arguments, "--data", tmp_path / "chats.jsonl", "--out", tmp_path / "2")
    assert chats.code == 0, chats.err
    assert len(json.loads((tmp_path / "2" / "sensitivity.json").read_text())["examples"]) == 2
    task = theworld(*arguments, "--task", "micro-world", "--limit", 2, "--out", tmp_path / "3")
    assert task.code == 0, task.err
    for wrong, message in {
        (): "there is none of them",
        ("--data", "x", "Why?"): "there is --data and a question",
        ("--answer", "a", "--task", "micro-world"): "go with a question",
        ("Why?",): "nothing to look at",
        ("--data", tmp_path / "no.jsonl"): "no.jsonl",
    }.items():
        failed = theworld(*arguments, *wrong, "--out", tmp_path / "4")
        assert failed.code == 2
        assert message in failed.err
        assert "Traceback" not in failed.err
