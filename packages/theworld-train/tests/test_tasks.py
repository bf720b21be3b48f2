"""Benchmarks, opened from small files in their published layouts."""

import io
import json
import re
from pathlib import Path
from typing import Any

import datasets
import pytest
from PIL import Image, ImageChops
from pydantic import TypeAdapter

from theworld_encoders import MediaError
from theworld_train.data.lazy import load_chat
from theworld_train.data.vsr import PROMPT
from theworld_train.errors import UsageError
from theworld_train.evaluate.tasks import AnyTask, BlinkTask, SpatialRgptTask, VsrTask, open_task, task_settings
from theworld_train.evaluate.tasks.spatial_rgpt import FILE, LENGTHS, PAIRS
from theworld_train.evaluate.tasks.vsr import CATEGORIES

DOCS = Path(__file__).parents[3] / "docs" / "tasks.md"


def picture(colour: str, size: tuple[int, int] = (60, 40)) -> dict[str, Any]:
    """As a parquet file of the hub holds it."""
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def save(folder: Path, name: str, rows: list[dict[str, Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    images = [column for column in rows[0] if column.startswith("image") and column != "image_info"]
    table = datasets.Dataset.from_list(rows)
    for column in images:
        table = table.cast_column(column, datasets.Image())
    table.to_parquet(folder / f"{name}-00000-of-00001.parquet")


def blink_row(subset: str, number: int, **changes: Any) -> dict[str, Any]:
    choices = ["A is closer", "B is closer"] if subset == "Relative_Depth" else ["yes", "no"]
    question = f"Question {number} of {subset}?"
    return {
        "idx": f"val_{subset}_{number}",
        "question": question,
        "sub_task": subset,
        "image_1": picture("red" if number < 3 else "blue"),
        "image_2": picture("green") if number == 2 else None,
        "image_3": None,
        "image_4": None,
        "choices": choices,
        "answer": "(A)" if number % 2 else "(B)",
        "prompt": f"{question}\nSelect from the following choices.\n(A) {choices[0]}\n(B) {choices[1]}",
        "explanation": "",
        **changes,
    }


@pytest.fixture
def blink(tmp_path: Path) -> Path:
    for subset in ("Relative_Depth", "Spatial_Relation"):
        save(tmp_path / subset, "val", [blink_row(subset, number) for number in (1, 2, 3)])
        hidden = [blink_row(subset, number, idx=f"test_{subset}_{number}", answer="hidden") for number in (1, 2)]
        save(tmp_path / subset, "test", hidden)
    return tmp_path


def loaded(item: Any) -> list[dict[str, Any]]:
    return load_chat(item.messages)[0]["content"]


def test_blink(blink: Path) -> None:
    task = open_task(BlinkTask(path=str(blink)), num_frames=5)
    items = task.items()
    assert task.name == "blink"
    assert [(item.key, item.family) for item in items] == [
        (f"val_{subset}_{number}", subset) for subset in ("Relative_Depth", "Spatial_Relation") for number in (1, 2, 3)
    ]
    first, two, third = items[:3]
    assert (first.answer, first.choices) == ("(A)", ("(A)", "(B)"))
    assert [block["type"] for block in first.messages[0]["content"]] == ["image", "text"]
    assert first.messages[0]["content"][-1]["text"].endswith("(A) A is closer\n(B) B is closer")
    shown = loaded(two)
    assert [block["type"] for block in shown] == ["image", "image", "text"]
    assert [shown[place]["image"].getpixel((0, 0)) for place in (0, 1)] == [(255, 0, 0), (0, 128, 0)]
    assert first.group == two.group == items[3].group != third.group  # the picture's bytes
    assert [task.score(first, answer).value for answer in ("(A)", "(B)", "A is closer", "Both", "")] == [
        1.0,
        0.0,
        1.0,
        None,
        None,
    ]
    assert task.score(items[3], "Yes, it is").value == 1.0
    assert task.score(items[3], "No").parsed == "(B)"


def test_blink_says_what_it_is_by_its_fingerprint(blink: Path) -> None:
    one = open_task(BlinkTask(path=str(blink)), num_frames=5).fingerprint
    assert one == open_task(BlinkTask(path=str(blink)), num_frames=9).fingerprint
    assert one != open_task(BlinkTask(path=str(blink), subsets=("Relative_Depth",)), num_frames=5).fingerprint
    rows = [blink_row("Relative_Depth", number) for number in (1, 2, 3)]
    for change in ({"answer": "(B)"}, {"prompt": "Other?\n(A) a\n(B) b"}, {"image_1": picture("black")}):
        save(blink / "Relative_Depth", "val", [{**rows[0], **change}, *rows[1:]])
        assert open_task(BlinkTask(path=str(blink)), num_frames=5).fingerprint != one, change


def test_blink_test_answers_are_hidden(blink: Path) -> None:
    with pytest.raises(UsageError, match=r"row 0 of Relative_Depth .* hidden answer.*split=val.*EvalAI"):
        open_task(BlinkTask(path=str(blink), split="test"), num_frames=5).items()
    save(blink / "Relative_Depth", "test", [blink_row("Relative_Depth", 1)])  # a layout that has them
    settings = BlinkTask(path=str(blink), split="test", subsets=("Relative_Depth",))
    assert [item.answer for item in open_task(settings, num_frames=5).items()] == ["(A)"]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"answer": "C"}, "answer 'C'"),
        ({"answer": "(C)"}, "2 choices and the answer"),
        ({"answer": None}, "answer None"),
        ({"image_1": None}, "pictures"),
        ({"idx": "val_Relative_Depth_2"}, "two items of blink have the key"),
    ],
)
def test_blink_refuses_rows_that_are_none(tmp_path: Path, change: dict[str, Any], complaint: str) -> None:
    rows = [
        blink_row("Relative_Depth", 1, **change),
        blink_row("Relative_Depth", 2, **change),
        blink_row("Relative_Depth", 3),
    ]
    save(tmp_path / "Relative_Depth", "val", rows)
    with pytest.raises(UsageError, match=re.escape(complaint)):
        open_task(BlinkTask(path=str(tmp_path), subsets=("Relative_Depth",)), num_frames=5).items()


def test_blink_builds_a_prompt_where_there_is_none(tmp_path: Path) -> None:
    save(tmp_path / "Spatial_Relation", "val", [blink_row("Spatial_Relation", 1, prompt="")])
    (item,) = open_task(BlinkTask(path=str(tmp_path), subsets=("Spatial_Relation",)), num_frames=5).items()
    assert item.messages[0]["content"][-1]["text"] == "Question 1 of Spatial_Relation?\n(A) yes\n(B) no"


def vsr_row(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "image": f"{number:012}.jpg",
        "image_link": f"http://images.cocodataset.org/train2017/{number:012}.jpg",
        "caption": f"Statement {number}.",
        "label": number % 2,
        "relation": ["in front of", "facing", "next to", "on", "seen by"][number % 5],
        "annotator_id": 1,
        "vote_true_validator_id": "[1]",
        "vote_false_validator_id": "[]",
        **changes,
    }


@pytest.fixture
def vsr(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for name, numbers in (("train", [9]), ("dev", range(4)), ("test", range(5))):
        rows = [vsr_row(number) for number in numbers]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for number in range(4):  # the fifth is missing
        Image.new("RGB", (20, 10), "red").save(tmp_path / "images" / f"{number:012}.jpg")
    return tmp_path


def test_vsr(vsr: Path) -> None:
    task = open_task(VsrTask(path=str(vsr), images=str(vsr / "images")), num_frames=5)
    items = task.items()
    assert task.name == "vsr-random"
    assert len(items) == 5
    assert [item.answer for item in items] == ["False", "True", "False", "True", "False"]
    assert [item.family for item in items] == ["projective", "orientation", "unallocated", "topological", "unallocated"]
    assert all(item.choices == ("False", "True") for item in items)
    assert loaded(items[0])[1] == {"type": "text", "text": PROMPT.format(caption="Statement 0.")}
    scores = [task.score(items[1], answer).value for answer in ("True", "False", "Yes, it is.", "I do not know", "")]
    assert scores == [1.0, 0.0, 1.0, None, None]


def test_vsr_reads_a_missing_picture_as_an_error_of_its_item(vsr: Path) -> None:
    items = open_task(VsrTask(path=str(vsr), images=str(vsr / "images")), num_frames=5).items()
    from theworld_encoders import load_image

    for item in items[:4]:
        load_image(item.messages[0]["content"][0]["image"])
    with pytest.raises(MediaError, match=r"000000000004\.jpg"):
        load_image(items[4].messages[0]["content"][0]["image"])


def test_vsr_splits_and_variants(vsr: Path) -> None:
    common: dict[str, Any] = {"path": str(vsr), "images": str(vsr / "images")}
    validation = open_task(VsrTask(**common, split="validation"), num_frames=5)
    assert (validation.name, len(validation.items())) == ("vsr-random-validation", 4)
    assert open_task(VsrTask(**common, variant="zeroshot"), num_frames=5).name == "vsr-zeroshot"
    with pytest.raises(UsageError, match="no folder"):
        open_task(VsrTask(path=str(vsr), images=str(vsr / "none")), num_frames=5).items()
    (vsr / "test.jsonl").write_text(json.dumps(vsr_row(0)) + "\n" + json.dumps(vsr_row(1, label=2)) + "\n")
    with pytest.raises(UsageError, match=r"row 1 of .*label 2"):
        open_task(VsrTask(**common), num_frames=5).items()
    (vsr / "test.jsonl").write_text(2 * (json.dumps(vsr_row(0)) + "\n"))
    keys = [item.key for item in open_task(VsrTask(**common), num_frames=5).items()]
    assert keys == [keys[0], f"{keys[0]}-2"]


def test_vsr_relations_stand_in_one_category() -> None:
    names = [name for relations in CATEGORIES.values() for name in relations.split(", ")]
    assert len(names) == len(set(names)) == 70


BENCH: list[tuple[str, str, str, dict[str, int | None]]] = [
    (
        "left_predicate",
        "Is Region [0] to the left of Region [1]?",
        "Yes, Region [0] is to the left of Region [1].",
        {
            "Yes": 1,
            "No": 0,
            "Indeed, it is.": 1,
            "In fact, Region [0] is to the right of Region [1].": 0,
            "Region [1] is to the right of Region [0].": 1,
            "Maybe": None,
        },
    ),
    (
        "right_predicate",
        "Is Region [1] to the right of Region [0]?",
        "In fact, Region [1] is to the left of Region [0].",
        {
            "No": 1,
            "Yes": 0,
            "Incorrect, it is not.": 1,
            "Region [1] is to the left of Region [0].": 1,
            "Region [1] is to the right of Region [0]": 0,
        },
    ),
    (
        "behind_predicate",
        "Is Region [0] behind Region [1]?",
        "That is False.",
        {
            "No, it is in front of Region [1].": 1,
            "That is True.": 0,
            "know": None,
        },
    ),
    (
        "wide_predicate",
        "Is Region [0] wider than Region [1]?",
        "Incorrect, Region [0]'s width does not surpass Region [1]'s.",
        {
            "Region [0] might be narrower than Region [1].": 1,
            "**Yes**": 0,
        },
    ),
    (
        "tall_choice",
        "Who is taller, Region [0] or Region [1]?",
        "With more height is Region [1].",
        {
            "Region [1]": 1,
            "Region [1] is taller.": 1,
            "Region [0] is shorter than Region [1]": 1,
            "Region [0]": 0,
            "Both": None,
            "The lamp": None,
        },
    ),
    (
        "distance_data",
        "What is the distance between Region [0] and Region [1]?",
        "They are 2.0 meters apart.",
        {
            "2 m": 1,
            "2.5 m": 1,
            "1.5 m": 1,
            "2.51 m": 0,
            "200 cm": 1,
            "6 ft": 1,
            "1-2 m": 1,
            "2": None,
            "200 pixels": None,
            "": None,
        },
    ),
    (
        "horizontal_distance_data",
        "How far apart are Region [0] and Region [1] horizontally?",
        "Horizontally, They are 4.19 feet apart.",
        {
            "50 inches": 1,
        },
    ),
    (
        "vertical_distance_data",
        "How far apart are Region [0] and Region [1] vertically?",
        "14.65 inches",
        {
            "37 cm": 1,
            "0 m": 0,
        },
    ),
    (
        "width_data",
        "How wide is Region [0]?",
        "Region [0] is 77.56 centimeters wide.",
        {
            "Height: 3 m\nWidth: 80 cm": 1,
        },
    ),
    (
        "height_data",
        "How tall is Region [0]?",
        "The height of Region [0] is 38.3 inches.",
        {
            "Height: 3 ft\nWidth: 30 ft": 1,
        },
    ),
    (
        "direction",
        "If you are at Region [0], where will you find Region [1]?",
        "Region [1] is roughly at 12 o'clock from Region [0].",
        {
            "12 o'clock": 1,
            "1 o'clock": 1,
            "11 o’clock": 1,
            "10 o'clock": 0,
            "two o'clock": 0,
            "ahead": None,
        },
    ),
]
"""Category, question, answer, and answers with what they are worth."""


def bench_row(number: int, category: str, question: str, answer: str, *, as_text: bool) -> dict[str, Any]:
    quantitative = category in LENGTHS or category == "direction"
    masked = re.sub(r"Region \[\d\]", "<mask>", question)
    row: dict[str, Any] = {
        "id": f"{'quant' if quantitative else 'qual'}itative_{number}",
        "image_info": {"file_path": f"{number % 3}.png", "height": 40, "width": 60},
        "text_q": question,
        "qa_info": {"type": "quantitative" if quantitative else "qualitative", "category": category},
        "conversations": [{"from": "human", "value": f"<image>\n{masked}"}, {"from": "gpt", "value": answer}],
        "bbox": [[5.0, 5.0, 25.0, 35.0], [30.0, 5.0, 55.0, 35.0]],
        "rle": [{"size": [40, 60], "counts": "abc"}],
    }
    for place, column in enumerate(("image_info", "qa_info", "conversations", "bbox", "rle") if as_text else ()):
        row[column] = repr(row[column]) if place % 2 else json.dumps(row[column])
    return row


def write_bench(folder: Path, layout: str) -> dict[str, Any]:
    rows = [bench_row(number, *entry[:3], as_text=layout == "text") for number, entry in enumerate(BENCH)]
    colours = ("red", "green", "blue")
    if layout == "json":
        folder.joinpath(FILE).write_text(json.dumps(rows))
        (folder / "pictures").mkdir()
        for number, colour in enumerate(colours):
            Image.new("RGB", (60, 40), colour).save(folder / "pictures" / f"{number}.png")
        return {"path": str(folder), "images": str(folder / "pictures")}
    save(folder, "val", [{**row, "image": picture(colours[number % 3])} for number, row in enumerate(rows)])
    return {"path": str(folder)}


@pytest.mark.parametrize("layout", ["records", "text", "json"])
def test_spatial_rgpt_bench(tmp_path: Path, layout: str) -> None:
    task = open_task(SpatialRgptTask(**write_bench(tmp_path, layout)), num_frames=5)
    items = task.items()
    assert task.name == "spatial-rgpt-bench"
    assert len(items) == len(BENCH)
    for item, (category, question, answer, answers) in zip(items, BENCH, strict=True):
        assert (item.facts["category"], item.answer) == (category, answer)
        assert item.messages[0]["content"][1]["text"] == question
        assert task.score(item, answer).value == 1.0
        for said, worth in answers.items():
            assert task.score(item, said).value == worth, (category, said)
        for choice in item.choices:
            assert task.score(item, choice).value in (0.0, 1.0)
        assert sum(task.score(item, choice).value or 0 for choice in item.choices) == bool(item.choices)
    assert items[0].choices == ("Yes", "No")
    assert items[4].choices == ("Region [0]", "Region [1]")
    assert items[0].group == items[3].group != items[1].group


def test_spatial_rgpt_bench_figures(tmp_path: Path) -> None:
    task = open_task(SpatialRgptTask(**write_bench(tmp_path, "records")), num_frames=5)
    far, direction = (
        next(item for item in task.items() if item.family == name) for name in ("direct distance", "direction")
    )
    score = task.score(far, "2.6 m")
    assert score.parsed == "2.6 m"
    assert dict(score.figures) == {
        "within_10": 0.0,
        "within_25": 0.0,
        "within_50": 1.0,
        "relative_error": pytest.approx(0.3),
        "metres": 2.6,
    }
    assert task.score(direction, "10:30").figures == {"angle_error": 45.0}
    assert task.score(far, "about 300 pixels").figures == {}


def test_spatial_rgpt_bench_draws_boxes_or_not(tmp_path: Path) -> None:
    source = write_bench(tmp_path, "records")
    plain = Image.new("RGB", (60, 40), "red")
    with_boxes, without = (
        open_task(SpatialRgptTask(**source, draw_boxes=draw), num_frames=5) for draw in (True, False)
    )
    assert ImageChops.difference(loaded(without.items()[0])[0]["image"], plain).getbbox() is None
    drawn = loaded(with_boxes.items()[0])[0]["image"]
    assert drawn.getpixel((5, 30)) == (0xE6, 0x19, 0x4B)
    assert drawn.getpixel((54, 30)) == (0xFF, 0xE1, 0x19)
    one_region = next(item for item in with_boxes.items() if item.family == "width")
    assert loaded(one_region)[0]["image"].getpixel((54, 30)) == (0, 0, 255)  # box 1 is not asked about
    assert (with_boxes.name, without.name) == ("spatial-rgpt-bench", "spatial-rgpt-bench-no-boxes")
    assert with_boxes.fingerprint != without.fingerprint


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"text_q": "Is Region [2] left of Region [0]?"}, "IndexError"),
        ({"text_q": "Is it left?"}, "names 0 regions"),
        ({"qa_info": {"type": "qualitative", "category": "green_predicate"}}, "'green_predicate' is unknown"),
        ({"conversations": [{"from": "human", "value": "?"}, {"from": "gpt", "value": "Perhaps."}]}, "cannot be read"),
        ({"conversations": [{"from": "human", "value": "?"}]}, "IndexError"),
        ({"qa_info": None}, "TypeError"),
    ],
)
def test_spatial_rgpt_bench_refuses_rows_that_are_none(tmp_path: Path, change: dict[str, Any], complaint: str) -> None:
    row = {**bench_row(0, *BENCH[0][:3], as_text=False), "image": picture("red"), **change}
    save(tmp_path, "val", [row])
    with pytest.raises(UsageError, match=f"row 0 of .*{re.escape(complaint)}"):
        open_task(SpatialRgptTask(path=str(tmp_path)), num_frames=5).items()


def test_spatial_rgpt_bench_keeps_a_bad_box_to_its_item(tmp_path: Path) -> None:
    row = {**bench_row(0, *BENCH[0][:3], as_text=False), "image": picture("red"), "bbox": [[90.0, 0.0, 95.0, 5.0]] * 2}
    save(tmp_path, "val", [row])
    (item,) = open_task(SpatialRgptTask(path=str(tmp_path)), num_frames=5).items()
    with pytest.raises(MediaError, match="outside its picture"):
        loaded(item)


def test_settings_of_a_text() -> None:
    assert task_settings("blink") == BlinkTask()
    assert task_settings("blink:subsets=Counting") == BlinkTask(subsets=("Counting",))
    assert task_settings("blink:subsets=[Jigsaw,Art_Style],path=/data") == BlinkTask(
        subsets=("Jigsaw", "Art_Style"), path="/data"
    )
    assert task_settings("vsr:variant=zeroshot, images=/coco, split=validation") == VsrTask(
        variant="zeroshot", images="/coco", split="validation"
    )
    assert task_settings("spatial-rgpt:draw_boxes=false") == SpatialRgptTask(draw_boxes=False)
    for settings in (BlinkTask(), VsrTask(images="i"), SpatialRgptTask()):
        assert TypeAdapter(AnyTask).validate_python(settings.model_dump()) == settings


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("blnik", 'kind is "blnik", which is no choice. Did you mean blink?'),
        ("", 'kind is "", which is no choice. Known choices: blink, vsr, spatial-rgpt'),
        ("blink:splt=val", "splt is no field. Did you mean split?"),
        ("blink:zebra=1", "zebra is no field. Known there: kind, path, subsets, split."),
        ("blink:split=train", "split is \"train\". It should be 'val' or 'test'."),
        ("blink:subsets=Colour", 'subsets.0 is "Colour"'),
        ("blink:subsets=[]", "subsets is []. Give at least one."),
        ("blink:split", "'split' has no value. Write kind:key=value"),
        ("blink:=val", "has no value"),
        ("blink:split=val,split=val", "split is given twice"),
        ("blink:kind=vsr", "kind is given twice"),
        ("blink:path=[", "is no YAML"),
        ("vsr", "images is missing. Give it."),
        ("spatial-rgpt:draw_boxes=1", "draw_boxes is 1. It should be a valid boolean."),
    ],
)
def test_wrong_settings_are_one_sentence(text: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=re.escape(complaint)) as error:
        task_settings(text)
    assert "\n" not in str(error.value)


def test_nothing_to_open_is_said(tmp_path: Path) -> None:
    for settings in (BlinkTask(path=str(tmp_path)), SpatialRgptTask(path=str(tmp_path))):
        with pytest.raises(UsageError, match=re.escape(str(tmp_path))):
            open_task(settings, num_frames=5).items()


@pytest.mark.skipif(not DOCS.exists(), reason="the package is tested without its documentation")
def test_the_documentation_lists_what_there_is() -> None:
    """The table's rows are the kinds, with their data and splits, and the families are all named."""
    text = DOCS.read_text(encoding="utf-8")
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| `")
    ]
    published = {
        BlinkTask: "BLINK-Benchmark/BLINK",
        SpatialRgptTask: "a8cheng/SpatialRGPT-Bench",
        VsrTask: "cambridgeltl/vsr_random",
    }
    found = {row[0].strip("`"): row for row in rows}
    for kind, data in published.items():
        row = found[kind.model_fields["kind"].default]
        assert data in row[1]
        for name in kind.model_fields:
            assert f"`{name}`" in text, name
    for family in {*PAIRS.values(), *LENGTHS.values(), "direction", *CATEGORIES}:
        assert family in text, family
