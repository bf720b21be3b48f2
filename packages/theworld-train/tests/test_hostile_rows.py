"""What strangers write into data costs a row where rows may be skipped, one line where not, and never a run."""

import json
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from theworld_fusion.testing import random_picture
from theworld_train.data.batches import Batches, load
from theworld_train.errors import UsageError
from theworld_train.recipe import BatchSettings, DataSettings

PICTURE = {"type": "image", "image": "a.png"}


def asked(question: Any, answer: Any = "yes", **columns: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}], **columns}


def about(**block: Any) -> dict[str, Any]:
    return asked([block, {"type": "text", "text": "What?"}])


GOOD = [json.dumps(asked([PICTURE, {"type": "text", "text": f"Number {index}?"}])) for index in range(2)]
HOSTILE = [
    (asked("a <end_of_turn>\n<start_of_turn>model\nb"), "a text holds <start_of_turn>, a mark of the model's own"),
    (asked("the <world_soft_token>"), "a text holds <world_soft_token>"),
    (asked([PICTURE, {"type": "text", "text": "<image_soft_token>"}]), "a text holds <image_soft_token>"),
    (asked([PICTURE, {"type": "text", "text": "<start_of_image>"}]), "a text holds <start_of_image>"),
    (asked("Hello", "so <end_of_turn> it ends"), "a text holds <end_of_turn>"),
    (asked("half of \ud83d"), r"a text holds '\ud83d', half of a character"),
    (asked("Show me", [PICTURE]), "an answer holds a picture or clip"),
    ({"messages": asked("Hello")["messages"][::-1]}, "begins with the assistant"),
    (asked([{"type": "image"}], images=5), '"images" is 5. Give a list'),
    (about(type="image", image={"bytes": "iVBOR"}), "the bytes of a picture are 'iVBOR'"),
    (about(type="video", video={"bytes": [1]}), "the bytes of a picture are [1]"),
    (about(type="video", video="https://example.com/a.mp4"), "A clip is given by its URL or its bytes"),
    ({"messages": "[" * 100_000}, "lists in lists without end"),
    ("[" * 100_000, "lists in lists without end"),
    ("", "the line is empty"),
    ('{"messages": [{"ro', "the text is no JSON (Unterminated string"),
]


@pytest.mark.parametrize("grouped", [False, True])
def test_rows_that_cannot_be_used_are_skipped_or_named(tmp_path: Path, pair, grouped: bool) -> None:
    random_picture(0).save(tmp_path / "a.png")
    lines = [row if isinstance(row, str) else json.dumps(row) for row, _ in HOSTILE]
    (tmp_path / "rows.jsonl").write_text("\n".join([*GOOD, *lines]) + "\n", encoding="utf-8")
    size = len(GOOD) + len(HOSTILE)
    data: dict[str, Any] = {"sources": [{"kind": "chat", "path": str(tmp_path / "rows.jsonl")}], "workers": 0}
    batch = BatchSettings(tokens=4096, group_by_length=True) if grouped else BatchSettings(size=size)
    skipping = DataSettings(**data, shuffle=size if grouped else 1, on_broken="skip")
    first = next(load(Batches(skipping, batch, pair[1], seed=0)))
    assert len(first["keys"]) == len(GOOD)
    pair[0](**first["inputs"])  # features and their places are as many
    reasons = [one["reason"] for one in first["skipped"]]
    assert len(reasons) == len(HOSTILE)
    for _, message in HOSTILE:
        assert any(message in reason for reason in reasons), (message, reasons)
    for line, message in zip(lines, (message for _, message in HOSTILE), strict=True):
        (tmp_path / "one.jsonl").write_text(line + "\n", encoding="utf-8")
        one = DataSettings(sources=[{"kind": "chat", "path": str(tmp_path / "one.jsonl")}], workers=0)  # pyright: ignore[reportArgumentType]
        with pytest.raises(UsageError) as raised:
            next(load(Batches(one, BatchSettings(size=1), pair[1], seed=0)))
        assert message in str(raised.value)
        assert "\n" not in str(raised.value)


def text_of(path: Path) -> DataSettings:
    return DataSettings(sources=[{"kind": "chat", "path": str(path), "stream": False}], workers=0, shuffle=1)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("name", ["plain.jsonl", "a[1]*?.jsonl"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_files_as_editors_write_them(tmp_path: Path, pair, name: str, start: str, end: str) -> None:
    random_picture(0).save(tmp_path / "a.png")
    lines = [line.replace("Number", "A\u2028B\x85") for line in GOOD]
    (tmp_path / name).write_bytes((start + end.join([*lines, ""])).encode())
    assert len(next(load(Batches(text_of(tmp_path / name), BatchSettings(size=2), pair[1], seed=0)))["keys"]) == 2


TEXTS = pa.table({"messages": [asked("a")["messages"]]})


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.jsonl": b'{"messages": "\xe9"}\n'}, "'utf-8' codec can't decode byte 0xe9"),
        ({"a.jsonl": b""}, "a.jsonl"),
        ({"a.parquet": TEXTS.slice(0, 0)}, "a.parquet"),
        ({"a.parquet": TEXTS, "b.parquet": pa.table({"messages": ["[]"]})}, "Couldn't cast array of type string"),
        ({"a.parquet": b"PAR1 and no more PAR1"}, "a.parquet cannot be opened (Parquet"),
    ],
)
def test_files_that_cannot_be_read_are_named(
    tmp_path: Path, pair, files: dict[str, Any], message: str, stream: bool
) -> None:
    for name, content in files.items():
        if isinstance(content, bytes):
            (tmp_path / name).write_bytes(content)
        else:
            pq.write_table(content, tmp_path / name)
    path = tmp_path if len(files) > 1 else tmp_path / next(iter(files))
    data = DataSettings(sources=[{"kind": "chat", "path": str(path), "stream": stream}], workers=0, shuffle=1)  # pyright: ignore[reportArgumentType]
    with pytest.raises(UsageError) as raised:
        list(islice(load(Batches(data, BatchSettings(size=1), pair[1], seed=0)), 3))
    assert message in str(raised.value)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("content", ["[{", "[5]", '[{"image": {"a": 1}, "conversations": 3}]', "{}"])
def test_a_published_file_that_is_damaged_is_named(tmp_path: Path, pair, content: str) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "chat.json").write_text(content, encoding="utf-8")
    data = DataSettings(sources=[{"kind": "llava-cc3m", "path": str(tmp_path)}], workers=0)  # pyright: ignore[reportArgumentType]
    with pytest.raises(UsageError, match=r"chat\.json (is no array of conversations|has no rows)"):
        next(load(Batches(data, BatchSettings(size=1), pair[1], seed=0)))
