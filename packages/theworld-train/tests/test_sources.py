"""Every kind of data set, in the layout in which it is published."""

import json
import zipfile
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from PIL import Image

from theworld_encoders import FeatureCache, MediaError
from theworld_encoders.features import encoder_key
from theworld_fusion.testing import random_picture
from theworld_train.data import Batches, Collator, Example, held_out, load
from theworld_train.data.boxes import clamp, draw_boxes, text_colour
from theworld_train.data.lazy import load_chat
from theworld_train.data.source import OpenSource
from theworld_train.data.sources import open_source
from theworld_train.data.spatial_rgpt import name_regions
from theworld_train.data.vsr import ANSWERS, PROMPT
from theworld_train.errors import UsageError
from theworld_train.recipe import BatchSettings, DataSettings


def opened(**source: Any) -> OpenSource:
    return open_source(DataSettings(sources=[source]).sources[0], num_frames=9)  # pyright: ignore[reportArgumentType]


def examples(source: OpenSource) -> list[Example]:
    return [source.to_example(source.rows[number]) for number in range(source.number_of_rows)]  # pyright: ignore


def picture_of(example: Example) -> Image.Image:
    content = load_chat(example.messages)[0]["content"]
    (picture,) = (block["image"] for block in content if block["type"] == "image")
    return Image.open(picture).convert("RGB") if isinstance(picture, str) else picture


def words_of(example: Example) -> list[str]:
    blocks = [[m["content"]] if isinstance(m["content"], str) else m["content"] for m in example.messages]
    return ["|".join(b if isinstance(b, str) else b.get("text", f"<{b['type']}>") for b in part) for part in blocks]


def png(seed: int) -> bytes:
    file = BytesIO()
    random_picture(seed).save(file, "PNG")
    return file.getvalue()


def test_vsr(tmp_path: Path) -> None:
    (tmp_path / "images/train2017").mkdir(parents=True)
    random_picture(1).save(tmp_path / "images/1.png")
    random_picture(2).save(tmp_path / "images/train2017/2.png")
    rows = [
        {
            "image": f"{number}.png",
            "image_link": f"http://images.cocodataset.org/train2017/{number}.png",
            "caption": "The cat is {behind} the laptop.",
            "label": label,
            "relation": "behind",
            "annotator_id": 31,
            "vote_true_validator_id": "[2, 6]",
            "vote_false_validator_id": "[]",
        }
        for number, label in ((1, 1), (2, 0), (3, 2))
    ]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows[:2])))
    (tmp_path / "dev.jsonl").write_text("\n".join(map(json.dumps, rows[2:])))
    source = {"kind": "vsr", "path": str(tmp_path), "images": str(tmp_path / "images")}
    first, second = examples(opened(**source))
    assert words_of(first) == [f"<image>|{PROMPT.format(caption=rows[0]['caption'])}", "True"]
    assert words_of(second)[1] == ANSWERS[0] == "False"
    assert picture_of(second) == random_picture(2)
    with pytest.raises(ValueError, match="labels are 0 and 1"):
        examples(opened(**source, split="validation"))
    with pytest.raises(UsageError, match="should hold files of one kind"):
        opened(**source, split="test")


def test_datacomp_of_addresses_and_of_fetched_pictures(tmp_path: Path) -> None:
    url = "https://example.com/1.png"
    addresses = datasets.Dataset.from_dict({"uid": ["a", "b"], "url": [url, url + "2"], "text": ["A cat.", " "]})
    addresses.to_parquet(tmp_path / "addresses.parquet")
    row = {"key": "a", "url": url, "image": {"bytes": png(1), "path": "a.png"}, "sha256": "0", "text": "A cat."}
    features = datasets.Features({**{name: datasets.Value("string") for name in row}, "image": datasets.Image()})
    (tmp_path / "shards").mkdir()
    datasets.Dataset.from_list([row], features=features).to_parquet(tmp_path / "shards/0.parquet")
    source = opened(kind="datacomp", path=str(tmp_path / "addresses.parquet"), prompt="What?")
    plain = source.to_example(source.rows[0])  # pyright: ignore
    assert words_of(plain) == ["<image>|What?", "A cat."]
    assert plain.messages[0]["content"][0]["image"] == url
    with pytest.raises(ValueError, match=r"the text ' '"):
        source.to_example(source.rows[1])  # pyright: ignore
    (fetched,) = examples(opened(kind="datacomp", path=str(tmp_path / "shards")))
    assert picture_of(fetched) == random_picture(1)
    assert (fetched.key, fetched.group) == (plain.key, plain.group)
    stream = opened(kind="datacomp", path=str(tmp_path / "shards"), stream=True).rows
    assert isinstance(stream, datasets.IterableDataset)
    assert next(stream.iter(batch_size=1)).to_pylist()[0]["image"]["bytes"] == png(1)


@pytest.fixture
def llava(tmp_path: Path) -> Path:
    names = ["GCC_train_1.jpg", "GCC_train_2.jpg", "GCC_train_3.jpg", "../3.jpg"]
    rows = [
        {
            "id": name.removesuffix(".jpg"),
            "image": name,
            "conversations": [
                {"from": "human", "value": "Give a brief description.\n<image>"},
                {"from": "gpt", "value": f"a caption, {name}"},
            ],
        }
        for name in names
    ]
    (tmp_path / "chat.json").write_text(json.dumps(rows))
    with zipfile.ZipFile(tmp_path / "images.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(names[0], png(1))
        archive.writestr(f"images/{names[1]}", png(2))
    return tmp_path


def test_llava_cc3m(llava: Path) -> None:
    read = examples(opened(kind="llava-cc3m", path=str(llava)))
    assert words_of(read[0]) == ["Give a brief description.|<image>", "a caption, GCC_train_1.jpg"]
    assert picture_of(read[0]) == random_picture(1)
    assert picture_of(read[1]) == random_picture(2)
    for missing in read[2:]:
        with pytest.raises(MediaError, match="has no member"):
            picture_of(missing)
    assert sorted(path.name for path in llava.iterdir()) == ["chat.json", "images.zip"]


def test_llava_cc3m_unpacked(llava: Path) -> None:
    (llava / "images").mkdir()
    random_picture(1).save(llava / "images/GCC_train_1.jpg", "PNG")
    source = opened(kind="llava-cc3m", path=str(llava), limit=1)
    (only,) = examples(source)
    assert picture_of(only) == random_picture(1)
    with pytest.raises(MediaError, match="leads out of the folder"):
        source.to_example(source.rows[3])  # pyright: ignore


def test_a_changed_file_is_read_again(llava: Path) -> None:
    assert opened(kind="llava-cc3m", path=str(llava)).number_of_rows == 4
    rows = json.loads((llava / "chat.json").read_text())
    (llava / "chat.json").write_text(json.dumps(rows[:2]))
    assert opened(kind="llava-cc3m", path=str(llava)).number_of_rows == 2


def test_spatial_rgpt(tmp_path: Path) -> None:
    random_picture(1, (200, 100)).save(tmp_path / "0a1b.jpg", "PNG")
    row = {
        "filename": "0a1b",
        "conversations": [
            {"from": "human", "value": "<image>\nDoes <mask> <depth> lie left of <mask> <depth>?"},
            {"from": "gpt", "value": "No, Region [0] is right of Region [1]."},
            {"from": "human", "value": "How wide is <mask> <depth>?"},
            {"from": "gpt", "value": "Region [0] is 3.1 feet wide."},
            {"from": "human", "value": "Is <mask> above <mask> <depth>?"},
            {"from": "gpt", "value": "Region [0] is above Region [1]."},
        ],
        "rle": [{"size": [100, 200], "counts": "abc"}] * 5,
        "bbox": [[10, 10, 50, 50.5], [60, 10, 90, 90], [60, 10, 90, 90], [150, 60, 200, 100], [10, 10, 50, 50.5]],
    }
    (tmp_path / "result_10_depth_convs.json").write_text(json.dumps([row]))
    source = {"kind": "spatial-rgpt", "path": str(tmp_path), "images": str(tmp_path)}
    (example,) = examples(opened(**source))
    assert words_of(example) == [
        "<image>|Does Region [0] lie left of Region [1]?",
        "No, Region [0] is right of Region [1].",
        "How wide is Region [1]?",
        "Region [1] is 3.1 feet wide.",
        "Is Region [2] above Region [0]?",
        "Region [2] is above Region [0].",
    ]
    drawn, (bare,) = picture_of(example), examples(opened(**source, draw_boxes=False))
    assert picture_of(bare) == random_picture(1, (200, 100))
    boxes = {"Region [0]": [10, 10, 50, 50.5], "Region [1]": [60, 10, 90, 90], "Region [2]": [150, 60, 200, 100]}
    assert drawn == draw_boxes(random_picture(1, (200, 100)), boxes) != picture_of(bare)
    assert (bare.key, bare.group) == (example.key, example.group)


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        (["<mask> and <mask>?"], "more masks than its 1 boxes"),
        (["<mask>?", "Region [1] is."], r"speaks of Region \[1\], and its question has 1 masks"),
    ],
)
def test_regions_that_do_not_exist(turns: list[str], message: str) -> None:
    said = [{"from": speaker, "value": text} for speaker, text in zip(("human", "gpt"), turns, strict=False)]
    with pytest.raises(ValueError, match=message):
        name_regions(said, [(0.0, 0.0, 1.0, 1.0)])


@pytest.mark.parametrize(
    ("box", "inside"),
    [
        ((10, 5, 20, 30), (10, 5, 20, 30)),
        ((-5, -5, 300, 300), (0, 0, 100, 50)),
        ((99.9, 10, 100, 20), (99, 10, 100, 20)),
        ((30, 20, 30, 20), (30, 20, 31, 21)),
    ],
)
def test_boxes_keep_a_pixel_inside(box, inside) -> None:
    assert clamp(box, (100, 50)) == inside


def test_boxes_outside_are_refused() -> None:
    for box in ((100, 10, 120, 20), (10, -9, 20, -5), (20, 10, 10, 20), (1, 2, 3)):
        with pytest.raises(ValueError, match="the box"):
            clamp(box, (100, 50))


def test_labels_stand_out_and_every_edge_is_drawn() -> None:
    assert [text_colour(colour) for colour in ("#ffe119", "#ffffff", "#911eb4", "black")] == [
        "black",
        "black",
        "white",
        "white",
    ]
    picture = Image.new("RGB", (60, 60), "gray")
    drawn = draw_boxes(picture, {"Region [0]": (0, 0, 60, 60)})
    assert {drawn.getpixel(at) for at in ((59, 30), (30, 59), (0, 59))} == {(0xE6, 0x19, 0x4B)}
    assert picture.getpixel((59, 30)) == (128, 128, 128)


def test_chats_of_every_layout(tmp_path: Path, pair) -> None:
    random_picture(1).save(tmp_path / "1.png")
    question = {"type": "text", "text": "What?"}

    def row(*blocks: Any, **more: Any) -> dict[str, Any]:
        said = [{"role": "user", "content": [*blocks, question]}, {"role": "assistant", "content": "It."}]
        return {"messages": said, **more}

    rows = [
        row({"type": "image", "image": "1.png"}),
        row({"type": "image", "path": str(tmp_path / "1.png")}),
        row({"type": "image"}, images=["1.png"]),
        row({"type": "video", "video": ["1.png"] * 5}),
        {"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi."}]},
        {"messages": json.dumps(row()["messages"])},
    ]
    (tmp_path / "chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    packed = {"bytes": png(1), "path": None}
    table = {"messages": [json.dumps(row({"type": "image"})["messages"])], "images": [[packed]]}
    features = datasets.Features({"messages": datasets.Value("string"), "images": [datasets.Image()]})
    datasets.Dataset.from_dict(table, features=features).to_parquet(tmp_path / "chat.parquet")
    mixed = datasets.Dataset.from_list([rows[1], rows[4]], on_mixed_types="use_json")
    mixed.to_parquet(tmp_path / "mixed.parquet")
    assert "Json" in str(mixed.features)
    read = examples(opened(kind="chat", path=str(tmp_path / "chat.jsonl")))
    assert [one.key for one in examples(opened(kind="chat", path=str(tmp_path / "mixed.parquet")))] == [
        one.key for one in (read[1], read[4])
    ]
    read += examples(opened(kind="chat", path=str(tmp_path / "chat.parquet")))
    alone = [Collator(pair[1])([example]) for example in read]
    for same in (1, 2, 6):
        assert torch.equal(alone[0]["pixel_values_world"], alone[same]["pixel_values_world"])
        assert torch.equal(alone[0]["input_ids"], alone[same]["input_ids"])
    assert alone[3]["pixel_values_world"].shape[1] == 5
    assert "pixel_values" not in alone[4]
    assert len({example.key for example in read}) == 6  # a picture by one name, in a block or a column, is the same
    assert read[0].group == read[2].group


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "?"}, 'no list of "messages"'),
        ({"messages": [{"role": "gpt", "content": "?"}]}, "the role 'gpt'"),
        ({"messages": [{"role": "user", "content": [{"type": "sound"}]}]}, "Use the types text, image and video"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "names no image"),
        ({"messages": [{"role": "user", "content": "?"}], "images": ["1.png"]}, "1 images more"),
        ([], "no JSON object"),
    ],
)
def test_rows_that_are_no_chats(tmp_path: Path, row: Any, message: str) -> None:
    (tmp_path / "chat.jsonl").write_text(json.dumps(row))
    with pytest.raises(ValueError, match=message):
        examples(opened(kind="chat", path=str(tmp_path / "chat.jsonl")))


def test_micro_world() -> None:
    source = opened(kind="micro-world", groups=2, seed=3)
    read = examples(source)
    assert len(read) == len({example.key for example in read})
    groups = [example.group for example in read]
    assert [words_of(example)[1] for example in read if example.group == groups[0]] == ["left", "right", "up", "down"]
    last = {load_chat(example.messages)[0]["content"][0]["video"][-1].tobytes() for example in read[:4]}
    assert len(last) == 1
    assert len(load_chat(read[0].messages)[0]["content"][0]["video"]) == 9


def test_nothing_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"has no chat\.json"):
        opened(kind="llava-cc3m", path=str(tmp_path))
    with pytest.raises(UsageError, match="should hold files of one kind of"):
        opened(kind="chat", path=str(tmp_path))
    with pytest.raises(UsageError, match="cannot be opened"):
        opened(kind="chat", path=str(tmp_path / "missing"))


@pytest.mark.parametrize("workers", [0, 1])
def test_features_come_from_the_cache_bit_by_bit(tmp_path: Path, pair, workers: int) -> None:
    model, processor = pair
    encoder = model.model.world_encoder
    for number in range(3):
        random_picture(number).save(tmp_path / f"{number}.png")
    said = [
        {"role": "user", "content": [{"type": "image", "image": "0.png"}, {"type": "text", "text": "?"}]},
        {"role": "assistant", "content": "It."},
    ]
    lines = [json.dumps({"messages": said}).replace("0.png", f"{number}.png") for number in range(3)]
    (tmp_path / "chat.jsonl").write_text("\n".join(lines))
    with FeatureCache(tmp_path / "cache", encoder) as cache:
        wanted = cache.features([tmp_path / "0.png", tmp_path / "1.png"])
    source = {"kind": "chat", "path": str(tmp_path / "chat.jsonl")}
    data = DataSettings.model_validate(
        {"sources": [source], "shuffle": 1, "cache": str(tmp_path / "cache"), "workers": workers}
    )
    options: dict[str, Any] = {"seed": 0, "encoder_key": encoder_key(encoder)}
    hit, miss = islice(load(Batches(data, BatchSettings(size=2), processor, **options)), 2)
    assert hit["cache_misses"] == 0
    assert "pixel_values_world" not in hit["inputs"]
    assert all(torch.equal(*both) for both in zip(hit["inputs"]["world_features"], wanted, strict=True))
    assert miss["cache_misses"] == 1
    assert "world_features" not in miss["inputs"]
    assert len(miss["inputs"]["pixel_values_world"]) == 2
    (tmp_path / "1.png").unlink()  # a row that is skipped is no miss
    skipping = data.model_copy(update={"on_broken": "skip"})
    skipped = next(load(Batches(skipping, BatchSettings(size=2), processor, **options)))
    assert (len(skipped["skipped"]), skipped["cache_misses"]) == (1, 0)
    assert torch.equal(skipped["inputs"]["world_features"][0], wanted[0])
    off = next(load(Batches(skipping, BatchSettings(size=2), processor, seed=0, world="off")))["inputs"]
    assert not off.keys() & {"world_features", "pixel_values_world"}


def test_a_cache_that_cannot_be_used(tmp_path: Path, pair) -> None:
    data = DataSettings.model_validate({"sources": [{"kind": "micro-world"}], "cache": str(tmp_path / "none")})
    for key, message in ((None, "Give encoder_key"), ("key", "is no folder")):
        with pytest.raises(UsageError, match=message):
            Batches(data, BatchSettings(size=2), pair[1], seed=0, encoder_key=key)


def test_clips_of_a_group_are_held_out_together(pair) -> None:
    source = {"kind": "micro-world", "groups": 8, "families": ["direction/free", "faster/free"]}
    data = DataSettings.model_validate({"sources": [source], "holdout": 0.5, "workers": 0})
    held = {one.group for one in held_out(data, pair[1], 200)}
    every = {one.group for one in examples(opened(**source))}
    assert 0 < len(held) < len(every)
    kept = next(load(Batches(data, BatchSettings(size=8), pair[1], seed=0)))["keys"]
    assert not {one.key for one in examples(opened(**source)) if one.group in held} & set(kept)
