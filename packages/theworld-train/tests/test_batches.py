"""A run goes on exactly where it stopped; every row comes once a pass; what is held out never comes."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from theworld_encoders import FeatureCache
from theworld_fusion import TheWorldProcessor
from theworld_fusion.testing import random_picture
from theworld_train.data import Batches, Collator, held_out, load
from theworld_train.data.batches import Position
from theworld_train.data.cursor import Share, cursor, grouped_by_picture, numbered
from theworld_train.data.lane import Lane
from theworld_train.data.lazy import load_chat
from theworld_train.data.maker import BatchMaker
from theworld_train.data.sources import open_source
from theworld_train.errors import UsageError
from theworld_train.media import media_of_chat
from theworld_train.recipe import BatchSettings, DataSettings

ROWS = 23
Batch = dict[str, Any]


@pytest.fixture(scope="session")
def processor(pair) -> TheWorldProcessor:
    return pair[1]


@pytest.fixture(scope="session")
def chats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three files of conversations; some with a picture, one of those missing, one row that is no JSON."""
    folder = tmp_path_factory.mktemp("chats")
    for number in range(3):
        random_picture(number).save(folder / f"{number}.png")
    lines = []
    for number in range(ROWS):
        text = f"Row {number}: " + "which way is it moving? " * (number % 5)
        blocks: list[dict[str, Any]] = [{"type": "text", "text": text}]
        if number % 4 == 0:
            blocks.insert(0, {"type": "image", "image": f"{number % 3}.png" if number != 8 else "missing.png"})
        turns = [{"role": "user", "content": blocks}, {"role": "assistant", "content": f"answer {number}"}]
        lines.append(json.dumps({"messages": turns}) if number != 13 else "{")
    for file, part in enumerate((lines[:9], lines[9:15], lines[15:])):
        (folder / f"{file}.jsonl").write_text("\n".join(part) + "\n")
    return folder


def settings(folder: Path, **changes: Any) -> DataSettings:
    source = {"kind": "chat", "path": str(folder), "stream": changes.pop("stream", False)}
    plain = {"sources": [source], "workers": 0, "shuffle": 7, "on_broken": "skip"}
    return DataSettings.model_validate(plain | changes)


def rows_of(batches: Iterator[Batch], processor: TheWorldProcessor) -> list[str]:
    texts = []
    for batch in batches:
        for labels in batch["inputs"]["labels"]:
            texts.append(processor.tokenizer.decode(labels[labels >= 0]).removesuffix("<end_of_turn>"))
    return texts


def assert_same(left: list[Batch], right: list[Batch]) -> None:
    assert [batch["keys"] for batch in left] == [batch["keys"] for batch in right]
    for a, b in zip(left, right, strict=True):
        assert {**a, "inputs": 0, "position": 0} == {**b, "inputs": 0, "position": 0}  # a stream's has no one form
        assert a["inputs"].keys() == b["inputs"].keys()
        for name, tensor in a["inputs"].items():
            assert len(tensor) == len(b["inputs"][name]), name
            assert all(torch.equal(*pair) for pair in zip(tensor, b["inputs"][name], strict=True)), name


def assert_stops_do_not_show(make: Callable[[Position | None], Iterator[Batch]], number: int) -> None:
    """Stopped once, anywhere, and stopped after every batch: the batches are those of the straight run."""
    straight = list(islice(make(None), number))
    for stop in range(1, number - 3, 3):
        start = json.loads(json.dumps(straight[stop - 1]["position"]))
        assert_same(list(islice(make(start), number - stop)), straight[stop:])
    position, hops = None, []
    for _ in range(number):
        hops.append(next(make(position)))
        position = json.loads(json.dumps(hops[-1]["position"]))
    assert_same(hops, straight)


SIZED, GROUPED = {"size": 3}, {"size": 3, "group_by_length": True}
BUDGET, GROUPED_BUDGET = {"tokens": 150}, {"tokens": 150, "group_by_length": True}


@pytest.mark.parametrize("batch", [SIZED, GROUPED, BUDGET, GROUPED_BUDGET])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("rank", "ranks"), [(0, 1), (1, 2), (2, 3)])
def test_a_run_goes_on_exactly(chats: Path, processor, batch, stream: bool, rank: int, ranks: int) -> None:
    data, sizes = settings(chats, stream=stream, holdout=0.2), BatchSettings(**batch)
    options: dict[str, Any] = {"seed": 3, "rank": rank, "ranks": ranks}
    assert any(one["skipped"] for one in islice(load(Batches(data, sizes, processor, **options)), 12))
    assert_stops_do_not_show(lambda start: load(Batches(data, sizes, processor, start=start, **options)), 12)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("workers", "batch"), [(2, SIZED), (2, GROUPED_BUDGET)])
def test_it_goes_on_with_workers_whatever_they_prefetched(chats, processor, stream, workers, batch) -> None:
    data, sizes = settings(chats, stream=stream, workers=workers), BatchSettings(**batch)
    straight = list(islice(load(Batches(data, sizes, processor, seed=3)), 12))
    for stop in (1, 2, 5):
        resumed = load(Batches(data, sizes, processor, seed=3, start=straight[stop - 1]["position"]), prefetch_factor=3)
        assert_same(list(islice(resumed, 12 - stop)), straight[stop:])


def test_a_mixture_goes_on_exactly(chats: Path, processor) -> None:
    sources = [
        {"kind": "chat", "path": str(chats), "stream": True, "weight": 3, "limit": 12},
        {"kind": "micro-world", "groups": 1, "weight": 1},
        {"kind": "chat", "path": str(chats / "2.jsonl"), "weight": 2},
    ]
    data, sizes = settings(chats, sources=sources, shuffle=10), BatchSettings(size=4)
    assert_stops_do_not_show(lambda start: load(Batches(data, sizes, processor, seed=1, start=start)), 14)


def test_a_mixture_has_its_weights(chats: Path, processor) -> None:
    sources = [{"kind": "chat", "path": str(chats / f"{number}.jsonl"), "weight": number + 1} for number in (0, 2)]
    data = settings(chats, sources=sources, shuffle=50)
    texts = rows_of(islice(load(Batches(data, BatchSettings(size=10), processor, seed=0)), 40), processor)
    late = sum(int(text.removeprefix("answer ")) >= 15 for text in texts)
    assert 0.65 < late / len(texts) < 0.88  # 3/4, and the early ones have a row that is skipped


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("workers", [1, 3, 4, 40])
def test_every_row_comes_once_a_pass(chats: Path, stream: bool, workers: int) -> None:
    if stream and workers > ROWS:
        return
    source, seen = open_source(settings(chats, stream=stream).sources[0], num_frames=9), Counter[str]()
    for number in range(workers):
        rows = cursor(source, 0, Share(number=number, of=workers, seed=5, shuffled=True), None)
        for _ in range(len(range(number, ROWS, workers)) if not stream else ROWS + 1):
            draw = rows.draw()
            if stream and rows.passes:
                break
            seen[draw.row["text"] if stream else draw.place] += 1
    assert len(seen) == ROWS
    assert set(seen.values()) == {1}


def test_no_two_processes_share_rows(chats: Path, processor) -> None:
    data = settings(chats, workers=2)
    ranks = [load(Batches(data, BatchSettings(size=1), processor, seed=2, rank=rank, ranks=2)) for rank in range(2)]
    keys = [key for batches in ranks for batch in islice(batches, 8) for key in batch["keys"]]
    assert len(set(keys)) == len(keys) == 16


@pytest.mark.parametrize("batch", [SIZED, GROUPED, BUDGET, GROUPED_BUDGET])
def test_batches_have_the_rows_of_their_blocks(chats: Path, processor, batch) -> None:
    data = settings(chats, holdout=0.2)
    source, make = open_source(data.sources[0], num_frames=9), BatchMaker(data, processor)
    share = Share(number=1, of=2, seed=5, shuffled=True)

    def rows(settings: dict[str, Any], block: int) -> list[str]:
        plans = Lane([source], data, BatchSettings(**settings), share, make.outline).plans()
        return [
            draw.place for plan in takewhile(lambda plan: plan.state["block"] <= block, plans) for draw in plan.draws
        ]

    for block in range(3):  # of seven rows, less what is held out
        batched, single = rows(batch, block), rows({"size": 1}, block)
        if "group_by_length" in batch:
            assert Counter(batched) == Counter(single)
            assert batched != single
        else:  # the last batch may go on into the next block
            assert batched == single[: len(batched)]
            assert len(single) - len(batched) < 7


@pytest.mark.parametrize("stream", [False, True])
def test_the_order_differs_between_passes_and_seeds(chats: Path, processor, stream: bool) -> None:
    data, sizes = settings(chats, stream=stream, shuffle=64), BatchSettings(size=1)

    def answers(seed: int, number: int = 2 * (ROWS - 2)) -> list[str]:
        return rows_of(islice(load(Batches(data, sizes, processor, seed=seed)), number), processor)

    first, again, other = answers(1), answers(1), answers(2)
    assert first == again
    assert first != other
    if not stream:  # a block spans the passes of a stream
        half = ROWS - 2
        assert Counter(first[:half]).keys() | Counter(first[half:]).keys() == set(first)
    assert first[: ROWS - 2] != first[ROWS - 2 :]


def test_without_shuffling_the_order_is_that_of_the_files(chats: Path, processor) -> None:
    for stream in (False, True):
        data = settings(chats, stream=stream, shuffle=1)
        texts = rows_of(islice(load(Batches(data, BatchSettings(size=7), processor, seed=0)), 3), processor)
        assert texts == [f"answer {number}" for number in range(21) if number not in (8, 13)]


@pytest.mark.parametrize("stream", [False, True])
def test_what_is_held_out_never_comes(chats: Path, processor, stream: bool) -> None:
    data = settings(chats, stream=stream, holdout=0.4)
    evaluated = held_out(data, processor, 100)
    assert [one.key for one in evaluated[:2]] == [one.key for one in held_out(data, processor, 2)]
    trained = {
        key
        for batch in islice(load(Batches(data, BatchSettings(size=2), processor, seed=0)), 30)
        for key in batch["keys"]
    }
    assert trained
    assert not trained & {one.key for one in evaluated}
    assert len(trained) + len(evaluated) == ROWS - 2
    assert {one.group for one in evaluated}.isdisjoint(
        one.group for one in held_out(settings(chats, holdout=0.999), processor, 99) if one.key in trained
    )
    Collator(processor)(evaluated)


def test_nothing_held_out_is_said(chats: Path, processor) -> None:
    with pytest.raises(UsageError, match="no row is held out"):
        held_out(settings(chats), processor, 3)


@pytest.mark.parametrize("batch", [BUDGET, GROUPED_BUDGET])
def test_batches_keep_the_token_budget(chats: Path, processor, batch) -> None:
    batches = list(islice(load(Batches(settings(chats), BatchSettings(**batch), processor, seed=0)), 20))
    assert all(batch["inputs"]["input_ids"].numel() <= 150 for batch in batches)
    assert len({len(batch["keys"]) for batch in batches}) > 1


SHARED, SHARED_BUDGET = ({**batch, "packing": "shared_prefix"} for batch in ({"size": 5}, {"tokens": 400}))
PACKED = {"size": 3, "packing": "samples", "row_tokens": 130}
PACKED_BUDGET = {"tokens": 500, "packing": "samples", "row_tokens": 250}


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four questions about each of five pictures, some without, one about a picture that is missing."""
    folder = tmp_path_factory.mktemp("asked")
    lines = []
    for number in range(23):
        random_picture(number % 5).save(folder / f"{number % 5}.png")
        blocks: list[dict[str, Any]] = [{"type": "text", "text": f"Row {number}?"}]
        if number < 20:
            blocks.insert(0, {"type": "image", "image": f"{number % 5}.png" if number != 8 else "missing.png"})
        turns = [{"role": "user", "content": blocks}, {"role": "assistant", "content": f"answer {number}"}]
        lines.append(json.dumps({"messages": turns}))
    (folder / "asked.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.parametrize("batch", [SHARED, SHARED_BUDGET, PACKED, PACKED_BUDGET])
@pytest.mark.parametrize(("rank", "ranks", "stream"), [(0, 1, False), (2, 3, False), (1, 2, True)])
def test_a_run_with_packed_rows_goes_on_exactly(asked: Path, processor, batch, stream, rank: int, ranks: int) -> None:
    data, sizes = settings(asked, stream=stream, holdout=0.2), BatchSettings(**batch)
    options: dict[str, Any] = {"seed": 3, "rank": rank, "ranks": ranks}
    assert_stops_do_not_show(lambda start: load(Batches(data, sizes, processor, start=start, **options)), 10)


@pytest.mark.parametrize(("batch", "gain"), [(SHARED_BUDGET, 1.8), (PACKED_BUDGET, 1.2)])
def test_packed_rows_fill_the_budget_and_keep_it(chats: Path, asked: Path, processor, batch, gain: float) -> None:
    data = settings(asked if batch is SHARED_BUDGET else chats, shuffle=50)
    packed, apart = (
        list(islice(load(Batches(data, BatchSettings(**one), processor, seed=0)), 20))
        for one in (batch, {"tokens": batch["tokens"]})
    )
    longest = batch.get("row_tokens", batch["tokens"])
    for one in packed:
        assert one["inputs"]["input_ids"].numel() <= batch["tokens"]
        assert one["inputs"]["input_ids"].shape[1] <= longest
    counts = [sum(len(one["keys"]) for one in batches) for batches in (packed, apart)]
    assert counts[0] > gain * counts[1]


def test_samples_that_are_packed_come_in_the_order_of_others(asked: Path, processor) -> None:
    packed, apart = (
        list(islice(load(Batches(settings(asked), BatchSettings(**batch), processor, seed=0)), 12))
        for batch in (PACKED, SIZED)
    )
    assert [one["keys"] for one in packed] == [one["keys"] for one in apart]
    assert sum(len(one["inputs"]["input_ids"]) for one in packed) < sum(len(one["keys"]) for one in apart)
    for a, b in zip(packed, apart, strict=True):
        assert a["inputs"]["attention_mask"].sum() == b["inputs"]["attention_mask"].sum()


@pytest.mark.parametrize("workers", [1, 2, 3, 40])
def test_what_is_about_a_picture_falls_to_one_worker_together(asked: Path, workers: int) -> None:
    source, seen = grouped_by_picture(open_source(settings(asked).sources[0], num_frames=9)), list[str]()
    cards = 5 + 3 + 1  # the missing picture is one more, beside rows without
    for number in range(workers):
        rows = cursor(source, 0, Share(number=number, of=workers, seed=5, shuffled=True), None)
        groups = list[str | None]()
        for _ in range(len(range(number, cards, workers))):
            groups.append((draw := rows.draw()).group())
            seen.append(draw.place)
            while (state := rows.state())["left"]:
                rows = cursor(source, 0, Share(number=number, of=workers, seed=5, shuffled=True), state)
                draw = rows.draw()
                assert draw.group() == groups[-1]
                seen.append(draw.place)
        assert len(set(groups)) == len(groups)
    assert len(seen) == len(set(seen)) == ROWS


def test_a_stream_of_questions_is_gathered_in_blocks(asked: Path, processor) -> None:
    data = settings(asked, stream=True, shuffle=23)
    shared, apart = (
        list(islice(load(Batches(data, BatchSettings(**one), processor, seed=0)), 4)) for one in (SHARED, {"size": 5})
    )
    pictures = [sum(len(one["inputs"].get("pixel_values", ())) for one in batches) for batches in (shared, apart)]
    assert pictures[0] < 0.6 * pictures[1]


def test_grouping_by_length_pads_less(chats: Path, processor) -> None:
    def padding(batch: dict[str, Any]) -> float:
        batches = Batches(settings(chats, shuffle=46), BatchSettings(**batch), processor, seed=0)
        masks = [one["inputs"]["attention_mask"] for one in islice(load(batches), 14)]
        return sum(int((mask == 0).sum()) for mask in masks) / sum(mask.numel() for mask in masks)

    assert padding(GROUPED) < 0.5 * padding(SIZED)


def test_outlines_are_those_of_the_batches(chats: Path, processor) -> None:
    data = settings(chats, sources=[{"kind": "chat", "path": str(chats)}, {"kind": "micro-world", "groups": 1}])
    for world in ("on", "off"):
        make = BatchMaker(data, processor, world=world)
        for source in data.sources:
            opened = open_source(source, num_frames=processor.world_num_frames)
            for number in range(0, 23, 4):
                draw = numbered(opened, number)
                made = make([draw])
                assert not made.keys or make.outline(draw).ids.tolist() == made.inputs["input_ids"][0].tolist()


def test_global_random_state_is_left_alone(chats: Path, processor) -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # beartype draws from Python's
    for workers in (0, 1):
        list(islice(load(Batches(settings(chats, workers=workers), BatchSettings(size=2), processor, seed=0)), 3))
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == np.random.get_state()[1].tolist()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_row_is_named_in_one_line(chats: Path, processor, workers: int) -> None:
    data = settings(chats, on_broken="error", shuffle=1, workers=workers)
    with pytest.raises(
        UsageError, match=r"^row 9 of .*chats\S* cannot be used: .*missing.png.*on_broken: skip\.$"
    ) as caught:
        list(islice(load(Batches(data, BatchSettings(size=3), processor, seed=0)), 5))
    assert "\n" not in str(caught.value)


def test_skipped_rows_are_listed_and_not_replaced(chats: Path, processor) -> None:
    data = settings(chats, shuffle=1)
    batches = list(islice(load(Batches(data, BatchSettings(size=3), processor, seed=0)), 5))
    assert [len(batch["keys"]) for batch in batches] == [3, 3, 2, 3, 2]
    (eighth,), (thirteenth,) = batches[2]["skipped"], batches[4]["skipped"]
    assert "missing.png" in eighth["reason"]
    assert "row 14 of" in thirteenth["reason"]
    assert (bool(eighth["key"]), bool(thirteenth["key"])) == (True, False)


def test_batches_of_nothing_but_skipped_rows_are_passed_over(chats: Path, processor) -> None:
    data = settings(chats, shuffle=1)
    batches = list(islice(load(Batches(data, BatchSettings(size=1), processor, seed=0)), 10))
    assert [batch["keys"] != [] for batch in batches] == [True] * 10
    assert [len(batch["skipped"]) for batch in batches] == [0] * 8 + [1, 0]


def test_what_is_too_long_is_skipped_or_named(chats: Path, processor) -> None:
    data = settings(chats, shuffle=1, max_tokens=60, on_long="skip")
    batches = list(islice(load(Batches(data, BatchSettings(size=4), processor, seed=0)), 6))
    reasons = [entry["reason"] for batch in batches for entry in batch["skipped"]]
    assert any("tokens, and 60 are allowed" in reason for reason in reasons)
    assert all(batch["inputs"]["input_ids"].shape[1] <= 60 for batch in batches)
    with pytest.raises(UsageError, match=r"^row 1 of .* is too long: it makes \d+ tokens, and 60 are allowed"):
        next(load(Batches(data.model_copy(update={"on_long": "error"}), BatchSettings(size=4), processor, seed=0)))


@pytest.mark.parametrize("change", [{"max_tokens": 5, "on_long": "skip"}, {"holdout": 0.9999999}])
def test_it_stops_where_nothing_is_left(chats: Path, processor, change) -> None:
    data = settings(chats, shuffle=50, **change)
    with pytest.raises(UsageError, match="two passes over the data gave no batch"):
        next(load(Batches(data, BatchSettings(size=4), processor, seed=0)))


@pytest.mark.parametrize("batch", [{"size": 4}, BUDGET, GROUPED_BUDGET, SHARED_BUDGET])
def test_it_stops_where_no_row_can_be_used(tmp_path: Path, processor, batch) -> None:
    (tmp_path / "rows.jsonl").write_text("{\n" * 3)
    with pytest.raises(UsageError, match="two passes over the data gave no batch"):
        next(load(Batches(settings(tmp_path), BatchSettings(**batch), processor, seed=0)))


def test_a_position_of_other_settings_is_refused(chats: Path, processor) -> None:
    sizes = BatchSettings(size=2)
    position = next(load(Batches(settings(chats), sizes, processor, seed=0)))["position"]
    with pytest.raises(UsageError, match="position is of another order"):
        Batches(settings(chats), BatchSettings(size=2, packing="samples"), processor, seed=0, start=position)
    for data, seed in ((settings(chats, workers=2), 0), (settings(chats, shuffle=9), 0), (settings(chats), 1)):
        with pytest.raises(UsageError, match="position is of another order"):
            Batches(data, sizes, processor, seed=seed, start=position)
    Batches(settings(chats, on_broken="error", workers=1), sizes, processor, seed=0, start=position)


def test_changed_rows_are_refused(tmp_path: Path, chats: Path, processor) -> None:
    lines = (chats / "2.jsonl").read_text()
    file = tmp_path / "rows.jsonl"
    file.write_text(lines)
    data = settings(tmp_path)
    position = next(load(Batches(data, BatchSettings(size=2), processor, seed=0)))["position"]
    file.write_text(lines + lines)
    with pytest.raises(UsageError, match=r"has 16 rows, and had 8 when the run was saved"):
        next(load(Batches(data, BatchSettings(size=2), processor, seed=0, start=position)))


def test_fewer_rows_than_workers(chats: Path, processor) -> None:
    data = settings(chats, sources=[{"kind": "chat", "path": str(chats), "limit": 1}], workers=2)
    texts = rows_of(islice(load(Batches(data, BatchSettings(size=2), processor, seed=0)), 4), processor)
    assert texts == ["answer 0"] * 8
    stream = settings(chats, sources=[{"kind": "chat", "path": str(chats), "limit": 1, "stream": True}], workers=2)
    with pytest.raises(UsageError, match="no rows for worker 1 of 2"):
        list(islice(load(Batches(stream, BatchSettings(size=2), processor, seed=0)), 4))


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({}, "Give one of the two"),
        ({"size": 2, "tokens": 2}, "Give one of the two"),
        ({"size": 8, "group_by_length": True}, r"groups 7 rows at a time"),
    ],
)
def test_settings_that_exclude_each_other(chats: Path, processor, batch, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Batches(settings(chats), BatchSettings(**batch), processor, seed=0)


class Counting(Collator):
    calls = 0

    def __call__(self, examples: Any) -> dict[str, Any]:
        Counting.calls += 1
        return super().__call__(examples)


@pytest.mark.parametrize("remember", [0, 100])
def test_a_picture_is_prepared_once_for_all_questions(
    asked: Path, processor, remember: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("theworld_train.data.maker.Collator", Counting)

    def made() -> tuple[list[Batch], int]:
        Counting.calls, data = 0, settings(asked, shuffle=23, remember=remember)
        return list(islice(load(Batches(data, BatchSettings(**SHARED), processor, seed=0)), 5)), Counting.calls

    once, calls = made()
    monkeypatch.setattr(BatchMaker, "_alike", lambda *_: None)
    again, more_calls = made()
    assert_same(once, again)
    assert calls < 0.7 * more_calls


@pytest.mark.parametrize("kept", [5, 100])
def test_remembered_rows_are_those_that_would_be_made_again(
    chats: Path, processor, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("theworld_train.data.maker.Collator", Counting)
    sources = [{"kind": "chat", "path": str(chats)}, {"kind": "micro-world", "groups": 1, "limit": 4}]
    made, calls = {}, {}
    for remember in (0, kept):
        Counting.calls = 0
        data = settings(chats, sources=sources, remember=remember)
        made[remember] = list(islice(load(Batches(data, BatchSettings(size=3), processor, seed=0)), 20))
        calls[remember] = Counting.calls
    assert_same(made[0], made[kept])
    assert calls[kept] < calls[0]
    if kept == 100:
        assert calls[kept] <= ROWS + 4


def test_where_features_are_missing_remembered_ones_make_room_for_pixels(chats: Path, pair, tmp_path: Path) -> None:
    model, processor = pair
    cache = FeatureCache(tmp_path, model.model.world_encoder)
    source = {"kind": "micro-world", "groups": 1, "limit": 4}
    rows = open_source(settings(chats, sources=[source]).sources[0], num_frames=9)
    with cache:
        for number in range(3):
            cache.features(
                [frames for _, frames in media_of_chat(load_chat(numbered(rows, number).example().messages))]
            )
    data = settings(chats, sources=[source], cache=str(tmp_path), remember=9)
    make = BatchMaker(data, processor, encoder_key=cache.encoder_key)
    fresh = BatchMaker(data.model_copy(update={"remember": 0}), processor, encoder_key=cache.encoder_key)
    draws = [numbered(rows, number) for number in range(4)]
    for batch in (draws[:3], draws, draws[:3], draws[2:], draws[1:2]):
        one, other = make(batch), fresh(batch)
        assert (one.keys, one.cache_misses, one.inputs.keys()) == (other.keys, other.cache_misses, other.inputs.keys())
        for name, tensor in one.inputs.items():
            assert all(map(torch.equal, tensor, other.inputs[name]))
    assert "world_features" in make(draws[:3]).inputs
    assert "pixel_values_world" in make(draws).inputs
