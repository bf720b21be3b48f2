"""``theworld data fetch``: every URL gets its outcome, whatever a server does; no row is lost, doubled or damaged."""

import csv
import errno
import hashlib
import importlib.util
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import HfApi

from theworld_encoders import MediaError
from theworld_train.data.address import is_public
from theworld_train.data.download import Downloader, Limits
from theworld_train.data.failure import one_line
from theworld_train.data.fetch import fetch
from theworld_train.data.fetch_folder import Block, FetchFolder
from theworld_train.data.lazy import fetch_picture
from theworld_train.errors import UsageError
from theworld_train.processes import ALONE, Rank

SERVER = Path(__file__).with_name("picture_server.py")
spec = importlib.util.spec_from_file_location("picture_server", SERVER)
assert spec is not None
assert spec.loader is not None
served = importlib.util.module_from_spec(spec)
spec.loader.exec_module(served)

QUICK = Limits(timeout=6, max_bytes=1_000_000, max_pixels=1_000_000, retries=1, backoff=0.01)
BAD = {
    "status/404": "http-404",
    "status/500": "http-500",
    "status/204": "http-204",
    "loop": "too-many-redirects",
    "endless": "too-large",
    "announced": "too-large",
    "drip": "timeout",
    "bomb.png": "too-many-pixels",
    "large.png": "too-many-pixels",
    "page.jpg": "not-an-image",
    "empty.jpg": "not-an-image",
    "drawing.svg": "unsupported-format",
    "photo.tif": "unsupported-format",
    "cut.jpg": "unreadable-image",
    "scans/10000": "unreadable-image",
    "closed": "connection",
    "gzip-bomb": "too-large",
    "redirect?to=ftp://127.0.0.1/a.jpg": "invalid-url",
    "redirect?to=http://127.0.0.2:1/a.jpg": "private-address",
    "redirect?to=http://0x7f000002:1/a.jpg": "private-address",
    "redirect?to=http://[::1]:1/a.jpg": "private-address",
}
KEPT = {f"good/{name}" for name in served.GOOD} | {"lies.png", "gzip.png", "scans/20", "redirect?to=/good/rgb.jpg"}


@pytest.fixture
def server() -> Iterator[Any]:
    with served.picture_server() as server:
        yield server


def write_list(path: Path, urls: list[str | None], **columns: list[Any]) -> Path:
    """A JSONL list with a text for each URL."""
    texts = [f"text {number}" for number in range(len(urls))]
    columns = {"url": urls, "text": texts, **columns}
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(
    urls: Path, out: Path, *, limits: Limits = QUICK, allow: Callable = lambda address: True, **options: Any
) -> Counter:
    return fetch(str(urls), out, limits=limits, report=lambda done, total, note="": None, allow=allow, **options)


def manifest(out: Path) -> list[dict[str, Any]]:
    paths = sorted(out.glob("manifest-*.parquet"))
    return [row for path in paths for row in pq.read_table(path).to_pylist()]


def shard_rows(out: Path) -> list[dict[str, Any]]:
    """As datasets reads them, with pictures as bytes."""
    paths = [str(path) for path in sorted(out.glob("shard-*.parquet"))]
    data = datasets.load_dataset("parquet", data_files=paths, split="train", streaming=True)
    return list(data.cast_column("image", datasets.Image(decode=False)))


def test_each_url_has_its_outcome(server: Any, tmp_path: Path) -> None:
    paths = [*BAD, *sorted(KEPT)]
    urls = [server.url(path) for path in paths]
    urls += [
        "file:///etc/passwd",
        "http://me:secret@127.0.0.1/a.jpg",
        None,
        "http://no-such-host.invalid/",
        "http://[::",
    ]
    began = time.monotonic()
    outcomes = run(write_list(tmp_path / "list.jsonl", urls), tmp_path / "out", allow=lambda a: a == "127.0.0.1")
    assert time.monotonic() - began < 60
    rows = manifest(tmp_path / "out")
    assert [row["url"] for row in rows[:-5]] == urls[:-5]  # every URL, in the list's order
    assert {path: row["outcome"] for path, row in zip(paths, rows, strict=False)} == BAD | dict.fromkeys(KEPT, "ok")
    assert [row["outcome"] for row in rows[-5:]] == ["invalid-url", "invalid-url", "invalid-url", "dns", "invalid-url"]
    assert "secret" not in str(rows)
    assert outcomes == Counter(row["outcome"] for row in rows)
    assert {row["outcome"] for row in rows if row["transient"]} >= {"timeout", "connection", "http-500"}
    assert server.asked["status/404"] == 1
    assert server.asked["status/500"] == 2
    bad_but_answered = [row for row in rows if row["outcome"] == "not-an-image"]
    assert {(row["status"], row["shard"], row["sha256"]) for row in bad_but_answered} == {(200, None, None)}


def test_shards_hold_the_bytes_that_were_sent_and_all_that_the_list_said(server: Any, tmp_path: Path) -> None:
    names = ["good/" + name for name in served.GOOD]
    urls = [server.url(name) for name in names]
    listed = write_list(
        tmp_path / "a.jsonl", urls, uid=[*map(str, range(len(urls)))], sha256=["told"] * len(urls), n=[1.5] * len(urls)
    )
    assert run(listed, tmp_path / "out") == {"ok": len(urls)}
    rows, records = shard_rows(tmp_path / "out"), manifest(tmp_path / "out")
    assert list(rows[0]) == ["image", "key", "url", "sha256", "text", "uid", "list_sha256", "n"]
    for name, row, record in zip(served.GOOD, rows, records, strict=True):
        sent = served.picture(name)
        assert row["image"]["bytes"] == sent
        assert row["sha256"] == record["sha256"] == hashlib.sha256(sent).hexdigest()
        assert record["bytes"] == len(sent)
        assert (row["key"], row["url"]) == (record["key"], record["url"])
    assert [row["uid"] for row in rows] == [*map(str, range(len(urls)))]
    assert {(row["list_sha256"], row["n"]) for row in rows} == {("told", 1.5)}
    assert records[0]["format"] == "JPEG"
    whole = datasets.load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert whole[0]["image"].size == (40, 30)
    outcomes = datasets.load_dataset(
        str(tmp_path / "out"), "manifest", split="train", cache_dir=str(tmp_path / "cache")
    )
    assert outcomes["outcome"][:] == ["ok"] * len(urls)


@pytest.mark.parametrize("kind", ["parquet", "csv", "folder"])
def test_lists_of_every_kind(kind: str, server: Any, tmp_path: Path) -> None:
    folder = tmp_path / "li[s]t *"  # a name, not a pattern
    folder.mkdir()
    rows = [
        {"link": server.url(f"good/rgb.png?n={n}"), "caption": ["NA", 'a, "b"', "", "null", "5"][n]} for n in range(5)
    ]
    if kind == "csv":
        with (folder / "list.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, ["link", "caption"])
            writer.writeheader()
            writer.writerows(rows)
    else:
        pq.write_table(pa.Table.from_pylist(rows[:2]), folder / "0.parquet")
        pq.write_table(pa.Table.from_pylist(rows[2:] if kind == "folder" else rows), folder / "1.parquet")
    path = {"csv": folder / "list.csv", "parquet": folder / "1.parquet", "folder": folder}[kind]
    assert run(path, tmp_path / "out", url_column="link", text_column="caption", shard_size=2) == {"ok": 5}
    found = shard_rows(tmp_path / "out")
    assert [(row["url"], row["text"]) for row in found] == [(row["link"], row["caption"]) for row in rows]


def test_a_url_that_is_listed_twice_is_downloaded_once_and_both_rows_have_it(server: Any, tmp_path: Path) -> None:
    url, dead = server.url("good/rgb.png"), server.url("status/404")
    outcomes = run(write_list(tmp_path / "a.jsonl", [url, dead, url, dead]), tmp_path / "out")
    assert outcomes == {"ok": 2, "http-404": 2}
    assert server.asked == {"good/rgb.png": 1, "status/404": 1}
    rows = shard_rows(tmp_path / "out")
    assert [row["text"] for row in rows] == ["text 0", "text 2"]
    assert rows[0]["image"]["bytes"] == rows[1]["image"]["bytes"]
    assert len({row["key"] for row in manifest(tmp_path / "out")}) == 4


def test_a_server_that_asks_to_wait_is_asked_again_only_after_that_time(server: Any, tmp_path: Path) -> None:
    began = time.monotonic()
    urls = [server.url("second-time?first=429"), server.url("come-back")]
    assert run(write_list(tmp_path / "a.jsonl", urls), tmp_path / "out") == {"ok": 1, "http-429": 1}
    assert time.monotonic() - began > 1
    assert [row["attempts"] for row in manifest(tmp_path / "out")] == [2, 1]  # an hour is too long to wait


def test_answers_overlap_and_no_more_than_allowed(server: Any, tmp_path: Path) -> None:
    urls = [server.url(f"slow?s=0.5&n={n}") for n in range(128)]
    listed = write_list(tmp_path / "a.jsonl", urls)
    began = time.monotonic()
    limits = Limits(connections=64, per_host=64)
    assert run(listed, tmp_path / "out", limits=limits, shard_size=40) == {"ok": 128}
    assert time.monotonic() - began < 40  # one after the other: 64 s
    assert 30 < server.most <= 64
    server.most = 0
    # Waiting for a busy host is not the URL's time.
    limits = Limits(connections=64, per_host=5, timeout=3, retries=0)
    assert run(write_list(tmp_path / "b.jsonl", urls[:40]), tmp_path / "polite", limits=limits) == {"ok": 40}
    assert server.most <= 5


def test_requests_say_who_asks_and_carry_nothing_else(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    run(write_list(tmp_path / "a.jsonl", [server.url("good/rgb.png#part")]), tmp_path / "out")
    [headers] = server.headers
    assert headers["User-Agent"].startswith("theworld-train/")
    assert headers["Accept-Encoding"] == "identity"
    assert set(headers) == {"Host", "User-Agent", "Accept-Encoding", "Accept"}


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "127.1", "[::ffff:127.0.0.1]"])
def test_this_machine_is_not_asked_unless_allowed(host: str, server: Any, tmp_path: Path) -> None:
    listed = write_list(tmp_path / "a.jsonl", [server.url("good/rgb.png", host)])
    [outcome] = run(listed, tmp_path / "out", allow=is_public)
    assert outcome in ("private-address", "invalid-url")  # newer aiohttp refuses odd spellings of numbers itself
    assert not server.asked


@pytest.mark.parametrize(
    ("address", "public"),
    [
        *[
            (address, True)
            for address in ("8.8.8.8", "1.1.1.1", "2606:4700::1111", "64:ff9b::808:808", "::ffff:8.8.8.8")
        ],
        *[(address, False) for address in ("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254")],
        *[(address, False) for address in ("100.64.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255", "240.0.0.1")],
        *[(address, False) for address in ("192.0.2.1", "198.18.0.1", "::", "::1", "fe80::1", "fe80::1%1", "fc00::1")],
        *[(address, False) for address in ("ff02::1", "::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:7f00:1::", "fec0::1")],
        *[(address, False) for address in ("2001:0:1::1", "2001:db8::1", "::127.0.0.1", "64:ff9b:1::1")],
    ],
)
def test_which_addresses_are_public(address: str, public: bool) -> None:
    assert is_public(address) is public


def test_what_is_committed_is_not_asked_for_again(server: Any, tmp_path: Path) -> None:
    listed = write_list(tmp_path / "a.jsonl", [server.url(f"good/rgb.png?n={n}") for n in range(10)])
    first = run(listed, tmp_path / "out", shard_size=4)
    before = {path: path.read_bytes() for path in (tmp_path / "out").glob("*.parquet")}
    assert run(listed, tmp_path / "out", shard_size=4) == first == {"ok": 10}
    assert set(server.asked.values()) == {1}
    assert {path: path.read_bytes() for path in (tmp_path / "out").glob("*.parquet")} == before
    # A shard without its manifest, as a kill between the two leaves it, does not count.
    (tmp_path / "out" / "manifest-000001.parquet").unlink()
    (tmp_path / "out" / ".shard-000001.parquet.partial").write_bytes(b"half")
    assert run(listed, tmp_path / "out", shard_size=4) == first
    assert Counter(server.asked.values()) == {1: 6, 2: 4}
    assert {path: path.read_bytes() for path in (tmp_path / "out").glob("*.parquet")} == before
    assert not list((tmp_path / "out").glob(".*.partial"))


def test_what_failed_for_a_passing_reason_is_tried_again_when_asked(server: Any, tmp_path: Path) -> None:
    urls = [server.url("second-time?first=503"), server.url("good/rgb.png"), server.url("status/404")]
    urls += [server.url("status/502"), server.url("second-time?first=503")]
    listed = write_list(tmp_path / "a.jsonl", urls)
    once = Limits(retries=0)
    assert run(listed, tmp_path / "out", limits=once) == {"http-503": 2, "ok": 1, "http-404": 1, "http-502": 1}
    assert run(listed, tmp_path / "out", limits=once)["http-503"] == 2
    again = {"ok": 3, "http-404": 1, "http-502": 1}
    assert run(listed, tmp_path / "out", limits=once, retry_failed=True) == again
    assert run(listed, tmp_path / "out", limits=once, retry_failed=True) == again
    assert server.asked["good/rgb.png"] == server.asked["status/404"] == 1
    assert server.asked["status/502"] == 3
    kept = [row for row in manifest(tmp_path / "out") if row["outcome"] == "ok"]
    assert sorted(row["key"] for row in shard_rows(tmp_path / "out")) == sorted(row["key"] for row in kept)
    assert {row["shard"] for row in kept} == {"shard-000000.parquet", "shard-000000-1.parquet"}


def test_a_folder_belongs_to_one_list(server: Any, tmp_path: Path) -> None:
    url = server.url("good/rgb.png")
    listed, other = write_list(tmp_path / "a.jsonl", [url]), write_list(tmp_path / "b.jsonl", [url, url], alt=["", ""])
    out = tmp_path / "out"
    with pytest.raises(
        UsageError, match=r"no column 'caption', only url, text\. Name the right one with --text-column"
    ):
        run(listed, out, text_column="caption")
    run(listed, out)  # the mistake left nothing behind
    with pytest.raises(UsageError, match=r"was begun with list .* another folder"):
        run(other, out)
    with pytest.raises(UsageError, match='begun with text_column "text", not ""'):
        run(listed, out, text_column="")
    listed.rename(tmp_path / "moved.jsonl")
    assert run(tmp_path / "moved.jsonl", out) == {"ok": 1}
    (out / "shard-000000.parquet").unlink()
    with pytest.raises(UsageError, match=r"shard-000000.parquet, which .*manifest-000000.parquet names, is gone"):
        run(tmp_path / "moved.jsonl", out)
    with pytest.raises(UsageError, match="holds other files"):
        run(tmp_path / "moved.jsonl", tmp_path)
    with pytest.raises(UsageError, match="There is no file or folder"):
        run(tmp_path / "gone.jsonl", tmp_path / "new")


def test_one_process_at_a_time(server: Any, tmp_path: Path) -> None:
    listed = write_list(tmp_path / "a.jsonl", [server.url("good/rgb.png")])
    for rank in (ALONE, Rank(1, 2, 1)):
        with FetchFolder(tmp_path / "out", rank), pytest.raises(UsageError, match="Another process fetches into"):
            run(listed, tmp_path / "out")
    with FetchFolder(tmp_path / "out", Rank(0, 2, 0)), FetchFolder(tmp_path / "out", Rank(1, 2, 1)):
        pass  # those of one fetch are there together
    assert run(listed, tmp_path / "out") == {"ok": 1}


def test_a_full_disk_is_no_dead_link(server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = write_list(tmp_path / "a.jsonl", [server.url(f"good/rgb.png?n={n}") for n in range(50)])

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Block, "keep", fail)
        with pytest.raises(OSError, match="No space left"):
            run(listed, tmp_path / "out", shard_size=5)
    assert manifest(tmp_path / "out") == []
    assert run(listed, tmp_path / "out", shard_size=5) == {"ok": 50}


def test_a_data_set_of_the_hub_stays_at_the_revision_that_was_begun(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    revisions, asked = iter(["first", "second"]), []

    def load(name: str, *, split: str, revision: str, streaming: bool) -> datasets.IterableDataset:
        asked.append((name, split, revision, streaming))
        rows = {"url": [server.url(f"good/rgb.png?n={n}") for n in range(3)], "text": ["a", None, "c"]}
        return datasets.Dataset.from_dict(rows).to_iterable_dataset()

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(HfApi, "dataset_info", lambda self, name: SimpleNamespace(sha=next(revisions)))
    out = tmp_path / "out"
    assert run(Path("owner/name"), out) == run(Path("owner/name"), out) == {"ok": 3}
    assert asked == [("owner/name", "train", "first", True)] * 2
    with pytest.raises(UsageError, match="was begun with list"):
        run(Path("owner/other"), out)


def test_a_message_is_one_line_that_can_be_stored() -> None:
    assert one_line("not \udcff utf-8\r\n at all", 14) == "not ? utf-8 at"


@pytest.fixture
def other_process() -> Iterator[str]:
    """The server where its memory is not ours; gives its address."""
    process = subprocess.Popen([sys.executable, str(SERVER)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    process.kill()
    process.wait()
    process.stdout.close()


COMMAND = [sys.executable, "-c", "from theworld_train.cli import main; main()", "data", "fetch", "--allow-private"]


def test_killed_and_resumed_is_the_same_as_undisturbed(other_process: str, tmp_path: Path) -> None:
    urls = [f"{other_process}/slow?s=0.1&n={n}" if n % 5 else f"{other_process}/status/404?n={n}" for n in range(300)]
    listed, whole, out = write_list(tmp_path / "a.jsonl", urls), tmp_path / "whole", tmp_path / "out"
    assert run(listed, whole, shard_size=20) == {"ok": 240, "http-404": 60}
    for committed in (1, 9):
        options = ["--out", out, "--shard-size", "20", "--connections", "8"]
        process = subprocess.Popen([*COMMAND, listed, *options], stdout=subprocess.DEVNULL)
        while process.poll() is None and len(list(out.glob("manifest-*"))) < committed:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        for path in out.glob("*.parquet"):
            pq.read_table(path)
    assert run(listed, out, shard_size=20) == {"ok": 240, "http-404": 60}
    assert manifest(out) == manifest(whole)
    assert shard_rows(out) == shard_rows(whole)
    assert len(shard_rows(out)) == 240


def test_two_processes_make_the_folder_of_one(other_process: str, tmp_path: Path) -> None:
    """No row is missing or doubled, no URL asked twice; and any number of processes goes on."""
    names = [f"second-time?first=404&n={n}" if n % 5 == 0 else f"good/rgb.png?n={n}" for n in range(50)]
    urls: list[str | None] = [f"{other_process}/{name}" for name in names]
    listed, out = write_list(tmp_path / "a.jsonl", urls), tmp_path / "out"
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    command = [sys.executable, *launcher, *COMMAND, str(listed), "--out", str(out), "--shard-size", "4"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "process 1 of 2: 26 rows: 21 ok, 5 http-404\n" in done.stdout  # 7 of 13 blocks, the last of them of 2 rows
    assert "process 2 of 2: 24 rows: 19 ok, 5 http-404\n" in done.stdout
    before = manifest(out)
    assert [row["row"] for row in before] == list(range(50))
    for index in (3, 8, 12):  # as if it had been killed
        (out / f"manifest-{index:06d}.parquet").unlink()
        (out / f".shard-{index:06d}.parquet.partial").write_bytes(b"half")
    found = [run(listed, out, shard_size=4, rank=Rank(number, 3, number)) for number in range(3)]
    assert sum(found, Counter()) == {"ok": 42, "http-404": 8}
    assert {row["row"] for row in manifest(out) if row not in before} == {15, 35}  # asked again, and the others not
    assert not list(out.glob(".*.partial"))
    kept = [row["key"] for row in manifest(out) if row["outcome"] == "ok"]
    assert [row["key"] for row in shard_rows(out)] == kept


PEAK = """
import resource, sys
from theworld_train.cli import main
import theworld_train.data.fetch, datasets.packaged_modules.json.json
from theworld_train.data.picture import check_picture
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    main()
finally:
    print("grew", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, file=sys.stderr)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has other units elsewhere")
def test_memory_stays_bounded_whatever_is_sent(other_process: str, tmp_path: Path) -> None:
    bad = ["endless", "gzip-bomb", "bomb.png", "large.png"]
    listed = write_list(tmp_path / "a.jsonl", [f"{other_process}/{bad[n % 4]}?n={n}" for n in range(128)])
    limits = [
        "--per-host",
        "64",
        "--retries",
        "0",
        "--timeout",
        "60",
        "--max-pixels",
        "1000000",
        "--max-bytes",
        "10000000",
    ]
    command = [
        sys.executable,
        "-c",
        PEAK,
        "data",
        "fetch",
        "--allow-private",
        listed,
        "--out",
        tmp_path / "out",
        *limits,
    ]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr  # nothing was kept
    assert "none of 128 rows gave a picture" in done.stderr
    assert Counter(row["outcome"] for row in manifest(tmp_path / "out")) == {"too-large": 64, "too-many-pixels": 64}
    grew = int(done.stderr.rpartition("grew ")[2].split()[0]) / 1024
    assert grew < 200, f"{grew:.0f} MiB"  # the bodies alone, up to their limit, are 64 x 10 MB


def test_the_command_ends_with_a_table(server: Any, tmp_path: Path, theworld: Callable[..., Any]) -> None:
    listed = write_list(
        tmp_path / "a.jsonl", [server.url("good/rgb.png"), server.url("status/404"), server.url("status/404")]
    )
    done = theworld("data", "fetch", listed, "--out", tmp_path / "out", "--allow-private")
    assert not done.code
    lines = [line.split() for line in done.out.splitlines()]
    assert [["outcome", "rows", "share"], ["ok", "1", "33.3%"], ["http-404", "2", "66.7%"]] == lines[-3:]


def test_one_picture_of_training_data_is_held_to_the_same_limits(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    address = server.url("good/rgb.jpg")
    with pytest.raises(MediaError, match=r"cannot be had \(private-address"):
        fetch_picture(address)
    everywhere = partial(Downloader, allow=lambda _: True)
    monkeypatch.setattr("theworld_train.data.download.Downloader", everywhere)
    assert fetch_picture(address).mode == "RGB"
    with pytest.raises(MediaError, match=r"cannot be had \(not-an-image"):
        fetch_picture(server.url("page.jpg"))
