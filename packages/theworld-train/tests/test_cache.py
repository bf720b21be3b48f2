"""``theworld cache build`` fills a cache that training and the model then read, bit by bit."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from theworld_encoders import (
    DamagedFeatures,
    FeatureCache,
    MediaError,
    VideoFile,
    encoder_key,
    load_encoder,
    read_video,
)
from theworld_encoders.shard import shard_paths
from theworld_fusion import TheWorldForConditionalGeneration, TheWorldProcessor, load_model
from theworld_fusion.testing import chat, encode, random_clip, random_picture
from theworld_train.data import Collator, Example
from theworld_train.data.features import with_world_features
from theworld_train.errors import UsageError
from theworld_train.media import find_media

Pair = tuple[TheWorldForConditionalGeneration, TheWorldProcessor]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def fill(theworld: Run, world: Path) -> Run:
    return partial(theworld, "cache", "build", "--weights", world, "--frame-size", 48, "--num-frames", 9)


@pytest.fixture
def media(tmp_path: Path, film: Callable[[Path], None]) -> Path:
    """Three pictures, a clip, and two files that are not what they are called."""
    folder = tmp_path / "media"
    (folder / "more").mkdir(parents=True)
    for number in range(3):
        random_picture(number).save(folder / f"{number}.png")
    film(folder / "more" / "clip.mp4")
    (folder / "broken.jpg").write_bytes(b"no picture")
    (folder / "broken.mp4").write_bytes(b"no video" * 100)
    (folder / "notes.txt").write_bytes(b"not looked at")
    return folder


def dead(folder: Path) -> list[dict[str, str]]:
    return [json.loads(line) for path in sorted(folder.glob("dead*.jsonl")) for line in path.read_text().splitlines()]


def test_a_folder_is_built_once_and_dead_inputs_are_listed(fill: Run, media: Path, tmp_path: Path) -> None:
    out = tmp_path / "features"
    code, said, error = fill("--data", media, "--out", out)
    assert code == 0, error
    assert f"6 inputs: 4 encoded, 0 were in {out}, 2 cannot be read: see {out / 'dead.jsonl'}" in said
    assert [Path(entry["path"]).name for entry in dead(out)] == ["broken.jpg", "broken.mp4"]
    assert all("\n" not in entry["reason"] and entry["path"] in entry["reason"] for entry in dead(out))
    shards = shard_paths(out)
    (media / "broken.jpg").unlink()
    _, said, _ = fill("--data", media, "--out", out)
    assert f"5 inputs: 0 encoded, 4 were in {out}, 1 cannot be read" in said
    assert shard_paths(out) == shards
    (media / "broken.mp4").unlink()
    assert f"4 inputs: 0 encoded, 4 were in {out}\n" in fill("--data", media, "--out", out)[1]
    assert not dead(out)


def test_training_and_the_model_read_what_was_built(
    fill: Run, media: Path, tmp_path: Path, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, processor = pair
    encoder = model.model.world_encoder
    clip, picture = str(media / "more" / "clip.mp4"), str(media / "0.png")
    messages = [
        {
            "role": "user",
            "content": [
                {"type": "video", "video": clip},
                {"type": "image", "image": picture},
                {"type": "text", "text": "What next?"},
            ],
        }
    ]
    example = Example(messages=[*messages, {"role": "assistant", "content": "It stops."}])
    prompt = encode(processor, [messages])
    with torch.no_grad():
        live, learnt = model(**prompt).logits, model(**Collator(processor)([example])).logits
        generated = model.generate(**prompt, max_new_tokens=5, do_sample=False)
    assert fill("--data", media, "--out", tmp_path / "features")[0] == 0
    monkeypatch.setattr(encoder, "encode", None)
    features = FeatureCache(tmp_path / "features", encoder).features([VideoFile(Path(clip), 9), picture])
    cached = encode(processor, [messages], world_features=features)
    [of_cache] = with_world_features([example], encoder, processor, folder=tmp_path / "features")
    with torch.no_grad():
        assert torch.equal(model(**cached).logits, live)
        assert torch.equal(model(**Collator(processor)([of_cache])).logits, learnt)
        assert torch.equal(model.generate(**cached, max_new_tokens=5, do_sample=False), generated)


def test_examples_fill_a_cache_themselves(pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = pair
    encoder = model.model.world_encoder
    answer = {"role": "assistant", "content": "left"}
    media = [(random_clip(1),), (), (random_picture(1), random_clip(2)), (random_clip(1),)]
    examples = [Example(messages=[*chat(*items, text="Where?"), answer]) for items in media]
    first = list(with_world_features(examples, encoder, processor, folder=tmp_path, batch_size=2))
    for example, items in zip(first, media, strict=True):
        alone = [encode(processor, [chat(item)])["pixel_values_world"] for item in items]
        live = [model.get_world_features(pixels).last_hidden_state[0] for pixels in alone]
        assert example.world_features is not None
        assert all(torch.equal(*both) for both in zip(example.world_features, live, strict=True))
    monkeypatch.setattr(encoder, "encode", None)
    again = list(with_world_features(examples, encoder, processor, folder=tmp_path))
    for one, other in zip(first, again, strict=True):
        assert all(
            torch.equal(*both) for both in zip(one.world_features or (), other.world_features or (), strict=True)
        )
    assert len(FeatureCache(tmp_path, encoder)) == 3


def test_every_way_to_load_an_encoder_gives_one_key(pair: Pair, checkpoint: Path, world: Path) -> None:
    loaded = load_encoder("cosmos-predict2-vae", world, frame_size=48)
    encoders = [loaded, pair[0].model.world_encoder, load_model(str(checkpoint)).model.world_encoder]
    assert len({encoder_key(encoder) for encoder in encoders}) == 1


def test_a_processor_of_another_encoder_is_refused(pair: Pair, tmp_path: Path) -> None:
    model, processor = pair
    other = type(processor)(processor.image_processor, processor.tokenizer, world_frame_size=64)
    with pytest.raises(ValueError, match=r"the processor is for \('cosmos-predict2-vae', 64\), the encoder is .* 48\)"):
        list(with_world_features([], model.model.world_encoder, other, folder=tmp_path))


def test_a_damaged_item_is_built_again(fill: Run, media: Path, tmp_path: Path) -> None:
    out = tmp_path / "features"
    fill("--data", media, "--out", out)
    [shard] = shard_paths(out)
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    with pytest.warns(DamagedFeatures, match=shard.name):
        _, said, _ = fill("--data", media, "--out", out)
    assert f"6 inputs: 1 encoded, 3 were in {out}" in said
    assert f"6 inputs: 0 encoded, 4 were in {out}" in fill("--data", media, "--out", out)[1]


def test_lines_name_media_in_three_ways(fill: Run, media: Path, tmp_path: Path) -> None:
    blocks = [{"type": "image", "image": "1.png"}, {"type": "video", "path": "more/clip.mp4"}, {"type": "text"}]
    lines = [
        {"image": "0.png"},
        {"image": str(media / "0.png"), "question": "again"},
        {"video": "more/clip.mp4"},
        {"messages": [{"role": "user", "content": blocks}, {"role": "assistant", "content": "yes"}]},
        {"image": "missing.png"},
        {"image": "data:image/png;base64,no"},
        {"text": "no media"},
        [1],
    ]
    data = media / "data.jsonl"
    data.write_text("\n".join([*map(json.dumps, lines), "", "{no json"]))
    code, said, _ = fill("--data", data, "--out", tmp_path / "features")
    assert code == 0
    assert "7 inputs: 3 encoded, 0 were in" in said
    assert [Path(entry["path"]).name for entry in dead(tmp_path / "features")] == [
        "missing.png",
        "data.jsonl:6",
        "data.jsonl:8",
        "data.jsonl:10",
    ]
    sources = [medium.source(9) for medium in find_media(data)[:2]]
    assert sources == [media / "0.png", VideoFile(media / "more" / "clip.mp4", 9)]


def test_nothing_to_do_or_bad_arguments(fill: Run, media: Path, tmp_path: Path) -> None:
    out, nothing = tmp_path / "features", tmp_path / "nothing"
    nothing.mkdir()
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "a.jpg").write_bytes(b"no picture")
    (tmp_path / "file").write_bytes(b"")
    cases = {
        ("--data", nothing, "--out", out): "names no picture and no clip",
        ("--data", tmp_path / "nowhere", "--out", out): "No such file or directory",
        ("--data", broken, "--out", out): "none of 1 inputs can be read; the first: The file",
        ("--data", media, "--out", tmp_path / "file" / "features"): "file",
        ("--data", media, "--out", out, "--frame-size", "50"): "cannot encode frames of 50 x 50 pixels",
        ("--data", media, "--out", out, "--encoder", "cosmos"): "no encoder called 'cosmos'. Known encoders: ",
        ("--data", media, "--out", out, "--dtype", "int8"): "int8",
        ("--out", out): "--data",
    }
    for arguments, message in cases.items():
        code, _, error = fill(*arguments)
        assert code == 2, arguments
        assert message in error
        assert "Traceback" not in error


def test_the_cache_can_be_kept_small(fill: Run, media: Path, tmp_path: Path) -> None:
    out = tmp_path / "features"
    assert fill("--data", media, "--out", out)[0] == 0
    random_picture(20).save(media / "new.png")
    _, said, _ = fill("--data", media, "--out", out, "--max-bytes", 1)
    assert "7 inputs: 1 encoded, 4 were in" in said
    assert "; 5 items are kept within 1 bytes" in said  # of the newest shard, and of the one that was read last
    random_picture(21).save(media / "newer.png")
    _, said, _ = fill("--data", media, "--out", out, "--max-bytes", 1)
    assert "8 inputs: 1 encoded, 5 were in" in said
    assert len(shard_paths(out)) == 2


def test_two_processes_build_shares_without_overlap(world: Path, media: Path, tmp_path: Path, pair: Pair) -> None:
    out = tmp_path / "features"
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python", sys.executable]
    arguments = ["cache", "build", "--weights", world, "--frame-size", 48, "--num-frames", 9]
    entry = ["-c", "from theworld_train.cli import main; main()", *arguments, "--data", media, "--out", out]
    command = [str(part) for part in (sys.executable, *launcher, *entry)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    assert "process 1 of 2: 3 inputs: 2 encoded" in done.stdout
    assert "process 2 of 2: 3 inputs: 2 encoded" in done.stdout
    assert sorted(path.name for path in out.glob("dead*")) == ["dead-0-of-2.jsonl", "dead-1-of-2.jsonl"]
    assert len(dead(out)) == 2
    cache = FeatureCache(out, pair[0].model.world_encoder)
    assert sorted(len(keys) for keys in cache._shards.values()) == [2, 2]
    assert len(cache) == 4


def test_media_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text('{"text": "hello"}\n')
    with pytest.raises(UsageError, match='lines with "image", "video" or "messages"'):
        find_media(tmp_path / "data.jsonl")
    (tmp_path / "data.jsonl").write_text("null\n")
    with pytest.raises(MediaError, match=r"data\.jsonl:1 is no example"):
        find_media(tmp_path / "data.jsonl")[0].source(9)


def test_frames_of_the_file_are_those_of_the_processor(media: Path, pair: Pair) -> None:
    path = media / "more" / "clip.mp4"
    [message] = pair[1].load_media([{"role": "user", "content": [{"type": "video", "video": str(path)}]}])
    frames = read_video(path, 9).frames
    assert [frame.tobytes() for frame in message["content"][0]["image"]] == [frame.tobytes() for frame in frames]
