"""The feature cache keeps what was committed, bit by bit, whatever happens to its processes and its files."""

import os
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from theworld_encoders import (
    DamagedFeatures,
    Encoder,
    EncoderError,
    FeatureCache,
    MediaError,
    VideoFile,
    encoder_key,
    load_encoder,
    preprocess,
)
from theworld_encoders.shard import shard_paths
from theworld_encoders.testing import TINY_FRAME_SIZE, make_tiny_cosmos_folder

DTYPES = [torch.float32, torch.bfloat16, torch.float16]

WRITERS = """
import os, signal, sys, time
from pathlib import Path
import torch
from theworld_encoders import FeatureCache

torch.set_num_threads(1)
folder, total, writers = sys.argv[1], int(sys.argv[2]), 4

def write(number):
    with FeatureCache(folder, "toy", shard_bytes=1600) as cache:
        for index in range(number, total, writers):
            cache.put(str(index), torch.full((8,), float(index)))
            if number == 0:
                time.sleep(0.001)  # so that it is alive when it is to be killed

children = []
for number in range(writers):
    child = os.fork()
    if not child:
        write(number)
        os._exit(0)
    children.append(child)
while not any(Path(folder).glob("*.safetensors")) or not FeatureCache(folder, "toy").get("0") is not None:
    time.sleep(0.02)
os.kill(children[0], signal.SIGKILL)
print([os.waitpid(child, 0)[1] for child in children])
"""

KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from theworld_encoders import FeatureCache

cache = FeatureCache(sys.argv[1], "toy")
cache.put("first", torch.ones(4))
cache.flush()
cache.put("second", torch.ones(4))
Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
cache.flush()
"""


def run(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    folder = make_tiny_cosmos_folder(tmp_path_factory.mktemp("cosmos"))
    return load_encoder("cosmos-predict2-vae", folder, frame_size=TINY_FRAME_SIZE)


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8))


def filled(folder: Path, count: int = 6, per_shard: int = 2) -> dict[str, torch.Tensor]:
    """A cache of random items of every dtype, some to a shard."""
    generator = torch.Generator().manual_seed(0)
    items = {f"item {n}": torch.randn(2, 3, generator=generator).to(DTYPES[n % 3]) for n in range(count)}
    cache = FeatureCache(folder, "toy")
    for number, (key, item) in enumerate(items.items(), start=1):
        cache.put(key, item)
        if number % per_shard == 0:
            cache.flush()
    return items


def test_items_come_back_bit_by_bit(tmp_path: Path) -> None:
    items = filled(tmp_path)
    items |= {"scalar": torch.tensor(0.1), "empty": torch.empty(0, 4), "nan": torch.tensor([float("nan"), -0.0])}
    cache = FeatureCache(tmp_path, "toy")
    for key in ("scalar", "empty", "nan"):
        cache.put(key, items[key])
    for _ in range(2):
        for key, item in items.items():
            found = cache.get(key)
            assert found is not None
            assert found.dtype == item.dtype
            assert found.shape == item.shape
            assert torch.equal(found.reshape(-1).view(torch.uint8), item.reshape(-1).view(torch.uint8))
        assert len(cache) == len(items)
        assert "nan" in cache
        assert cache.get("other") is None
        cache.flush()
        cache = FeatureCache(tmp_path, "toy")


def test_what_readers_and_writers_do_to_tensors_stays_theirs(tmp_path: Path) -> None:
    cache, item = FeatureCache(tmp_path, "toy"), torch.ones(4)
    cache.put("a", item[:2])
    item.zero_()
    for _ in range(2):
        for _ in range(2):
            found = cache.get("a")
            assert found is not None
            assert found.tolist() == [1, 1]
            found.zero_()
        cache.flush()


def test_ten_thousand_items_of_four_writers_one_of_them_killed(tmp_path: Path) -> None:
    total = 10_000
    done = run(WRITERS, tmp_path, total)
    assert done.stdout.strip() == f"[{signal.SIGKILL}, 0, 0, 0]", done.stderr
    with FeatureCache(tmp_path, "toy") as cache:
        committed = [index for index in range(total) if str(index) in cache]
        assert {0, *(index for index in range(total) if index % 4)} <= set(committed)
        assert len(committed) == len(cache) < total
        for index in set(range(total)) - set(committed):
            cache.put(str(index), torch.full((8,), float(index)))
    again = FeatureCache(tmp_path, "toy")
    assert len(again) == total
    for index in range(total):
        assert again.get(str(index)).unique().tolist() == [index]
    assert sum(len(keys) for keys in again._shards.values()) == total


def test_an_item_that_two_processes_wrote_is_there_once(tmp_path: Path) -> None:
    first, second = FeatureCache(tmp_path, "toy"), FeatureCache(tmp_path, "toy")
    first.put("a", torch.ones(1))
    second.put("a", torch.ones(1))
    first.flush()
    second.flush()
    first.refresh()
    for cache in (first, second, FeatureCache(tmp_path, "toy")):
        assert len(cache) == 1
        assert cache.get("a") == 1
    assert len(shard_paths(tmp_path)) == 2


def test_a_flipped_byte_anywhere_is_found_and_named_and_mended(tmp_path: Path) -> None:
    items = filled(tmp_path / "sound")
    names = [path.name for path in shard_paths(tmp_path / "sound")]
    content = (tmp_path / "sound" / names[1]).read_bytes()
    in_it = {"item 2", "item 3"}
    for position in range(len(content)):
        folder = tmp_path / "damaged"
        shutil.copytree(tmp_path / "sound", folder)
        flipped = bytearray(content)
        flipped[position] ^= 1 << position % 8
        (folder / names[1]).write_bytes(flipped)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with FeatureCache(folder, "toy") as cache:
                missing = {key for key in items if cache.get(key) is None}
                assert missing, f"byte {position} was flipped unseen"
                assert missing <= in_it
                assert [warning.category for warning in caught] == [DamagedFeatures]
                assert names[1] in str(caught[0].message)
                if len(missing) == 1:
                    assert all(key in str(caught[0].message) for key in missing)
                for key in missing:
                    cache.put(key, items[key])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            mended = FeatureCache(folder, "toy")
            assert all(torch.equal(mended.get(key), item) for key, item in items.items())
            assert len(mended) == len(items)
        shutil.rmtree(folder)


@pytest.mark.parametrize("length", [0, 5, 100, -1])
def test_a_shard_that_was_cut_is_named_and_its_neighbours_stay(tmp_path: Path, length: int) -> None:
    items = filled(tmp_path)
    path = shard_paths(tmp_path)[0]
    path.write_bytes(path.read_bytes()[:length])
    with pytest.warns(DamagedFeatures, match=path.name):
        cache = FeatureCache(tmp_path, "toy")
    assert [key for key in items if cache.get(key) is None] == ["item 0", "item 1"]
    cache.flush()
    assert not path.exists()


def test_a_writer_killed_between_write_and_commit_leaves_what_can_be_ignored(tmp_path: Path) -> None:
    assert run(KILLED, tmp_path).returncode == -signal.SIGKILL
    [left] = tmp_path.glob(".*.tmp")
    cache = FeatureCache(tmp_path, "toy")
    assert (len(cache), cache.get("second")) == (1, None)
    cache.put("second", torch.ones(4))
    cache.flush()
    assert left.exists(), "it could be a living writer's"
    moment = left.stat().st_mtime - 2 * 3600
    os.utime(left, (moment, moment))
    other = tmp_path / ".notes.tmp"
    other.write_bytes(b"")
    os.utime(other, (moment, moment))
    cache.put("third", torch.ones(4))
    cache.flush()
    assert not left.exists()
    assert other.exists(), "it is not the cache's"
    assert len(FeatureCache(tmp_path, "toy")) == 3


def test_a_writer_that_overslept_writes_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace, calls = Path.replace, []

    def cleaned_up_first(self: Path, target: Path) -> Path:
        calls.append(self)
        if len(calls) == 1:
            self.unlink()
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", cleaned_up_first)
    with FeatureCache(tmp_path, "toy") as cache:
        cache.put("a", torch.ones(1))
    assert len(calls) == 2
    assert FeatureCache(tmp_path, "toy").get("a") == 1


def test_the_oldest_shards_go_first_and_never_the_one_being_read(tmp_path: Path) -> None:
    filled(tmp_path, count=6, per_shard=1)
    paths = shard_paths(tmp_path)
    size = sum(path.stat().st_size for path in paths[-3:])
    FeatureCache(tmp_path, "toy", max_bytes=size).flush()
    assert shard_paths(tmp_path) == paths[-3:]
    reader, cache = FeatureCache(tmp_path, "toy"), FeatureCache(tmp_path, "toy", max_bytes=1)
    assert cache.get("item 3") is not None
    assert reader.get("item 4") is not None
    cache.flush()
    assert shard_paths(tmp_path) == [paths[3], paths[5]]
    assert cache.get("item 4") is None
    assert reader.get("item 4") is not None, "what is open stays readable"
    assert FeatureCache(tmp_path, "toy").get("item 4") is None
    reader.refresh()
    assert len(reader) == 2


def test_a_reader_takes_an_evicted_item_for_missing(tmp_path: Path) -> None:
    filled(tmp_path)
    reader = FeatureCache(tmp_path, "toy")
    shard_paths(tmp_path)[0].unlink()
    assert reader.get("item 0") is None
    assert reader.get("item 2") is not None


def test_a_shard_that_is_evicted_while_it_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path)
    reader, evicted = FeatureCache(tmp_path, "toy"), shard_paths(tmp_path)[0]

    def too_late(path: Path, framework: str) -> Any:
        if path == evicted:
            path.unlink()
            raise RuntimeError(f"unable to open file <{path}> in read-only mode")
        return safe_open(path, framework)

    monkeypatch.setattr("theworld_encoders.shard.safe_open", too_late)
    assert reader.get("item 0") is None
    assert reader.get("item 2") is not None


def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    filled(tmp_path)
    FeatureCache(tmp_path, "toy", max_bytes=1).flush()
    assert (tmp_path / "model.safetensors").read_bytes() == b"weights"


def test_features_equal_the_live_encoders_and_are_computed_once(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = [picture(1), [picture(2), picture(3)], [picture(n) for n in range(9)], picture(4), picture(1)]
    live = [encoder(preprocess(item, encoder.spec)[None])[0] for item in items]
    with FeatureCache(tmp_path, encoder) as cache:
        some = cache.features(items[1:3])
        every = cache.features(items)
    monkeypatch.setattr(encoder, "encode", None)
    again = FeatureCache(tmp_path, encoder).features(items)
    for found in (some, every[1:3]):
        assert all(torch.equal(one, wanted) for one, wanted in zip(found, live[1:3], strict=True))
    for found in (every, again):
        assert all(torch.equal(one, wanted) for one, wanted in zip(found, live, strict=True))
    assert len(cache) == 4
    by_key = FeatureCache(tmp_path, cache.encoder_key)
    assert torch.equal(by_key.features(items[:1])[0], live[0])
    with pytest.raises(EncoderError, match=r"has no features with the key .* Open it with the encoder itself"):
        by_key.features([picture(9)])


def test_a_key_is_of_all_that_features_depend_on(encoder: Encoder, tmp_path: Path) -> None:
    folders = [make_tiny_cosmos_folder(tmp_path / str(seed), seed=seed) for seed in (0, 1)]

    def key(folder: Path, frame_size: int = TINY_FRAME_SIZE, dtype: torch.dtype | None = None) -> str:
        return encoder_key(load_encoder("cosmos-predict2-vae", folder, frame_size=frame_size, dtype=dtype))

    same = encoder_key(encoder)
    assert same.startswith("cosmos-predict2-vae-")
    assert key(folders[0]) == same
    others = [
        key(folders[1]),
        key(folders[0], frame_size=64),
        key(folders[0], dtype=torch.bfloat16),
        key(folders[0], dtype=torch.float16),
    ]
    assert len({same, *others}) == 5
    with torch.no_grad():
        one = load_encoder("cosmos-predict2-vae", folders[0], frame_size=TINY_FRAME_SIZE)
        next(one.parameters()).view(-1)[-1] += 1e-3
    assert encoder_key(one) != same
    keys = {FeatureCache(tmp_path / "cache", name).key(picture(0)) for name in (same, *others)}
    assert len(keys) == 5
    with FeatureCache(tmp_path / "cache", same) as cache:
        cache.put("a", torch.ones(1))
    other = FeatureCache(tmp_path / "cache", others[0])
    assert (len(other), other.get("a")) == (0, None)
    with pytest.raises(EncoderError, match="is being trained"):
        encoder_key(one.requires_grad_(True))


def test_a_key_is_of_an_items_content(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path / "cache", "toy")
    for name in ("a.png", "b.png"):
        picture(1).save(tmp_path / name)
    picture(2).save(tmp_path / "c.png")
    same = cache.key(tmp_path / "a.png")
    assert same == cache.key(str(tmp_path / "b.png"))
    array = np.asarray(picture(1))
    palette = picture(1).quantize(8)
    recoloured = palette.copy()
    recoloured.putpalette([255 - value for value in palette.getpalette()])
    assert cache.key(picture(1)) == cache.key(array) == cache.key(torch.from_numpy(array.copy()))
    different = [
        tmp_path / "a.png",
        tmp_path / "c.png",
        VideoFile(tmp_path / "a.png", 5),
        VideoFile(tmp_path / "a.png", 9),
        picture(1),
        picture(2),
        [picture(1), picture(2)],
        [picture(2), picture(1)],
        array.reshape(50, 40, 3),
        palette,
        recoloured,
    ]
    assert len({cache.key(source) for source in different}) == len(different)
    for bad in (tmp_path / "missing.png", VideoFile(tmp_path, 5), [], 3):
        with pytest.raises(MediaError):
            cache.key(bad)
