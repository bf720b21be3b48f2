"""Features of Gemma's vision tower from a cache: a live run's training, with no picture decoded and no tower run."""

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from PIL import Image

from theworld_encoders import FeatureCache
from theworld_encoders.features import encoder_key
from theworld_encoders.shard import shard_paths
from theworld_fusion.testing import random_clip, random_picture
from theworld_train import run as module
from theworld_train.data import Batches, held_out, load
from theworld_train.data.cursor import numbered
from theworld_train.data.maker import BatchMaker
from theworld_train.data.sources import open_source
from theworld_train.errors import UsageError
from theworld_train.recipe import BatchSettings, DataSettings, Recipe
from theworld_train.recipe_file import load_recipe
from theworld_train.resting import Resting, lay_aside
from theworld_train.run import run_recipe
from theworld_train.vision import vision_key

Run = Callable[..., Any]
PARTS = "stages.0.parts={world_projector: {}, image_projector: {}, language_model: {}}"


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory, film: Run) -> Path:
    """One picture or clip a row; rows of text alone; and apart, a row of several."""
    folder = tmp_path_factory.mktemp("chats")
    for number in range(6):
        random_picture(number).save(folder / f"{number}.png")
    film(folder / "clip.mp4")
    shown = [[f"{number}.png"] for number in range(6)] + [["clip.mp4"], [], ["0.png"]]
    write(folder / "one" / "rows.jsonl", shown)
    write(folder / "several" / "rows.jsonl", [["1.png", "clip.mp4", "2.png"], [], ["3.png"]])
    return folder


def write(file: Path, rows: list[list[str]]) -> None:
    file.parent.mkdir()
    lines = []
    for number, names in enumerate(rows):
        kinds = [(name, "video" if name.endswith("mp4") else "image") for name in names]
        blocks: list[Any] = [{"type": kind, kind: f"../{name}"} for name, kind in kinds]
        blocks.append({"type": "text", "text": f"Which way, {number}?"})
        lines.append(
            {"messages": [{"role": "user", "content": blocks}, {"role": "assistant", "content": f"answer {number}"}]}
        )
    file.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")


def recipe(data: Path, *changes: str) -> Recipe:
    return load_recipe("smoke", changed(data, *changes))


def changed(data: Path, *changes: str) -> list[str]:
    start = [f"stages.0.data.sources=[{{kind: chat, path: {data}}}]", "stages.0.data.workers=0", "model.num_frames=9"]
    return [*start, "stages.0.steps=9", "log.every=1", "save.every=100", "batch.size=1", PARTS, *changes]


def caches(folder: Path, *kinds: str) -> list[str]:
    return [f"stages.0.data.{kind}={folder}" for kind in kinds or ("cache", "vision_cache")]


def fill(theworld: Run, changes: list[str], *more: object) -> Any:
    told = theworld("cache", "build", "--recipe", "smoke", *more, *[word for one in changes for word in ("--set", one)])
    assert told.code == 0, told.err
    return told


def losses(out: Path) -> list[Any]:
    entries = [json.loads(line) for line in (out / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{key: value for key, value in entry.items() if "second" not in key} for entry in entries]


def weights(out: Path) -> bytes:
    return (out / "checkpoint-9" / "theworld_adapter.safetensors").read_bytes()


@pytest.fixture
def built(theworld: Run, chats: Path, tmp_path: Path) -> Path:
    """A cache with all that the rows show."""
    folder = tmp_path / "features"
    told = fill(theworld, changed(chats / "one", *caches(folder)))
    assert "9 rows make about " in told.err
    assert "8 inputs: 7 encoded, 1 were in the cache of projector" in told.out
    return folder


@pytest.fixture
def nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("a picture is decoded")

    monkeypatch.setattr(Image, "open", fail)
    monkeypatch.setattr("theworld_encoders.source.read_video", fail)
    monkeypatch.setattr("theworld_fusion.processing_theworld.read_video", fail)


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every model that a run builds."""
    kept: list[Any] = []
    build = module._Run._build

    def keep(self: Any, *arguments: Any) -> Any:
        made = build(self, *arguments)
        kept.append(made.model)
        return made

    monkeypatch.setattr(module._Run, "_build", keep)
    return kept


@pytest.mark.parametrize("kinds", [("vision_cache",), ("cache",), ("cache", "vision_cache")])
def test_training_from_caches_is_that_of_a_live_run(
    built: Path, chats: Path, tmp_path: Path, models: list[Any], kinds: tuple[str, ...]
) -> None:
    run_recipe(recipe(chats / "one"), tmp_path / "live")
    run_recipe(recipe(chats / "one", *caches(built, *kinds)), tmp_path / "cached")
    assert len(losses(tmp_path / "live")) >= 9
    assert losses(tmp_path / "cached") == losses(tmp_path / "live")
    assert weights(tmp_path / "cached") == weights(tmp_path / "live")  # so every gradient was the same
    resting = {name for name, child in models[-1].model.named_children() if isinstance(child, Resting)}
    assert resting == {{"cache": "world_encoder", "vision_cache": "vision_tower"}[kind] for kind in kinds}
    assert not any(name.startswith(tuple(f"model.{one}." for one in resting)) for name in models[-1].state_dict())


def test_with_both_caches_no_picture_is_decoded(built: Path, chats: Path, tmp_path: Path, nothing_is_read: Any) -> None:
    run_recipe(recipe(chats / "one", *caches(built)), tmp_path / "run")
    assert all(entry.get("cache_misses", 0) == 0 for entry in losses(tmp_path / "run"))


def test_the_baseline_too_may_have_a_vision_cache(theworld: Run, chats: Path, tmp_path: Path) -> None:
    off = ["model.config.world_fusion=none", "stages.0.parts={image_projector: {}, language_model: {}}"]
    cached = changed(chats / "one", *off, *caches(tmp_path / "features", "vision_cache"))
    fill(theworld, cached)
    run_recipe(recipe(chats / "one", *off), tmp_path / "live")
    run_recipe(load_recipe("smoke", cached), tmp_path / "cached")
    assert losses(tmp_path / "cached") == losses(tmp_path / "live")
    assert weights(tmp_path / "cached") == weights(tmp_path / "live")


def test_evaluation_reads_the_caches(
    built: Path, chats: Path, tmp_path: Path, models: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluated = ["stages.0.data.holdout=0.4", "eval={every: 3, examples: 8, samples: 2, max_new_tokens: 4}"]
    run_recipe(recipe(chats / "one", *evaluated), tmp_path / "live")
    run_recipe(recipe(chats / "one", *evaluated, *caches(built)), tmp_path / "cached")
    assert [entry for entry in losses(tmp_path / "live") if "eval_loss" in entry]
    assert losses(tmp_path / "cached") == losses(tmp_path / "live")
    samples = [(tmp_path / name / "samples.jsonl").read_text() for name in ("live", "cached")]
    assert samples[0] == samples[1] != ""
    assert isinstance(models[-1].model.vision_tower, Resting)
    assert isinstance(models[-1].model.world_encoder, Resting)


def test_several_in_a_conversation_and_rows_without_any(
    theworld: Run, chats: Path, tmp_path: Path, nothing_is_read_later: Callable[[], None]
) -> None:
    cached = changed(chats / "several", *caches(tmp_path / "features"), "batch.size=3")
    assert "4 inputs: 4 encoded" in fill(theworld, cached).out
    run_recipe(recipe(chats / "several", "batch.size=3"), tmp_path / "live")
    nothing_is_read_later()
    run_recipe(load_recipe("smoke", cached), tmp_path / "cached")
    for one, other in zip(losses(tmp_path / "live"), losses(tmp_path / "cached"), strict=True):
        assert one.keys() == other.keys()
        # Live, pictures are encoded as one batch, which rounds in its own way.
        assert other.get("loss", 0) == pytest.approx(one.get("loss", 0), rel=1e-4)


@pytest.fixture
def nothing_is_read_later(request: pytest.FixtureRequest) -> Callable[[], None]:
    return lambda: request.getfixturevalue("nothing_is_read")


def pack(folder: Path) -> None:
    """Six pictures as DataComp's parquet files have them, and in LLaVA's archive."""
    files = []
    for number in range(6):
        random_picture(number).save(content := BytesIO(), "PNG")
        files.append(content.getvalue())
    rows = [
        {"url": f"https://example.com/{n}", "text": f"text {n}", "image": {"bytes": one, "path": None}}
        for n, one in enumerate(files)
    ]
    texts = {name: datasets.Value("string") for name in ("url", "text")}
    table = datasets.Dataset.from_list(rows, features=datasets.Features({**texts, "image": datasets.Image()}))
    (folder / "datacomp").mkdir()
    table.to_parquet(folder / "datacomp" / "0.parquet")
    said = [{"from": "human", "value": "Describe it.\n<image>"}, {"from": "gpt", "value": "A picture."}]
    with zipfile.ZipFile(folder / "images.zip", "w") as archive:
        for n, one in enumerate(files):
            archive.writestr(f"{n}.jpg", one)
    captions = [{"id": f"{n}", "image": f"{n}.jpg", "conversations": said} for n in range(6)]
    (folder / "chat.json").write_text(json.dumps(captions), encoding="utf-8")


def test_packed_pictures_are_known_by_their_bytes(theworld: Run, tmp_path: Path, nothing_is_read_later: Any) -> None:
    """Inside a zip archive or a parquet file: the features are those of the same files in a folder."""
    pack(tmp_path)
    sources = f"[{{kind: datacomp, path: {tmp_path}/datacomp}}, {{kind: llava-cc3m, path: {tmp_path}}}]"
    data = [f"stages.0.data.sources={sources}", "stages.0.data.workers=0", *caches(tmp_path / "features")]
    told = fill(theworld, data)
    assert "12 inputs: 6 encoded, 6 were in" in told.out
    files = [tmp_path / f"{number}.png" for number in range(6)]
    for number, file in enumerate(files):
        random_picture(number).save(file)
    write(tmp_path / "rows" / "rows.jsonl", [[file.name] for file in files])
    told = fill(theworld, changed(tmp_path / "rows", *caches(tmp_path / "features"), "model.num_frames=5"))
    assert "6 inputs: 0 encoded, 6 were in" in told.out
    nothing_is_read_later()
    run_recipe(load_recipe("smoke", [*data, "stages.0.steps=2", "model.num_frames=5"]), tmp_path / "run")


def test_a_mixture_of_which_one_set_is_cached(built: Path, chats: Path, pair: Any, tmp_path: Path) -> None:
    """Batches without a miss have features, others pixels; with workers, pinned or not, it is the same."""
    model, processor = pair
    new = tmp_path / "new"
    new.mkdir()
    for number in range(3):
        random_picture(50 + number).save(new / f"{number}.png")
    write(new / "rows" / "rows.jsonl", [[f"{number}.png"] for number in range(3)])
    data = DataSettings.model_validate(
        {
            "sources": [{"kind": "chat", "path": str(path)} for path in (chats / "one", new / "rows")],
            "workers": 1,
            "shuffle": 8,
            "cache": str(built),
            "vision_cache": str(built),
        }
    )
    keys = {
        "encoder_key": encoder_key(model.model.world_encoder.freeze()),
        "vision_key": key_of(model, processor),
    }
    seen = set()
    live = data.model_copy(update={"cache": None, "vision_cache": None})
    sizes = BatchSettings(size=2)
    both = (
        islice(load(Batches(data, sizes, processor, seed=0, **keys)), 16),
        islice(load(Batches(live, sizes, processor, seed=0)), 16),
    )
    for cached, plain in zip(*both, strict=True):
        inputs, kinds = cached["inputs"], cached["inputs"].keys() & {"image_features", "pixel_values"}
        assert ("pixel_values" in kinds) == bool(cached["cache_misses"] and kinds)
        assert cached["cache_misses"] % 2 == 0  # both branches miss the same items
        assert torch.equal(inputs["input_ids"], plain["inputs"]["input_ids"])
        with torch.no_grad():
            torch.testing.assert_close(model(**inputs).loss, model(**plain["inputs"]).loss, rtol=1e-5, atol=1e-5)
        seen |= kinds
    assert seen == {"image_features", "pixel_values"}


def key_of(model: Any, processor: Any) -> str:
    trained = [one for one in model.model.vision_tower.parameters() if one.requires_grad]
    for one in trained:
        one.requires_grad_(False)
    key = vision_key(model, processor)
    for one in trained:
        one.requires_grad_(True)
    return key


def test_remembered_rows_are_those_that_would_be_made_again(built: Path, chats: Path, pair: Any) -> None:
    model, processor = pair
    random_picture(77).save(chats / "77.png")
    write_row = chats / "mixed"
    if not write_row.exists():
        write(write_row / "rows.jsonl", [["0.png"], ["1.png"], ["77.png"], []])
    data = DataSettings.model_validate(
        {
            "sources": [{"kind": "chat", "path": str(write_row)}],
            "workers": 0,
            "remember": 9,
            "vision_cache": str(built),
        }
    )
    make = BatchMaker(data, processor, vision_key=key_of(model, processor))
    fresh = BatchMaker(data.model_copy(update={"remember": 0}), processor, vision_key=key_of(model, processor))
    rows = open_source(data.sources[0], num_frames=9)
    draws = [numbered(rows, number) for number in range(4)]
    for batch in (draws[:2], draws, draws[:2], draws[1:], draws[3:], draws[2:3]):
        one, other = make(batch), fresh(batch)
        assert (one.keys, one.cache_misses, one.inputs.keys()) == (other.keys, other.cache_misses, other.inputs.keys())
        for name, tensor in one.inputs.items():
            assert all(map(torch.equal, tensor, other.inputs[name]))
    assert "image_features" in make(draws[:2]).inputs
    assert "pixel_values" in make(draws).inputs


def test_a_tower_that_is_needed_after_all_wakes(
    built: Path, chats: Path, tmp_path: Path, models: list[Any], theworld: Run
) -> None:
    for shard in shard_paths(built):
        shard.unlink()
    fill(theworld, changed(chats / "one", *caches(built), "stages.0.data.sources.0.limit=3"))
    run_recipe(recipe(chats / "one"), tmp_path / "live")
    run_recipe(recipe(chats / "one", *caches(built)), tmp_path / "cached")
    assert losses(tmp_path / "cached") == losses(tmp_path / "live")
    assert weights(tmp_path / "cached") == weights(tmp_path / "live")
    assert not isinstance(models[-1].model.vision_tower, Resting)
    assert not isinstance(models[-1].model.world_encoder, Resting)


def test_what_rests_is_not_moved(build: Callable[[], Any]) -> None:
    model, _ = build()
    tower = model.model.vision_tower
    lay_aside(model.model, "vision_tower", torch.device("cpu"))
    assert not any(one is held for one in model.parameters() for held in tower.parameters())
    model.to("meta")
    assert {one.device.type for one in tower.parameters()} == {"cpu"}
    assert {one.device.type for one in model.parameters()} == {"meta"}
    pixels = torch.randn(1, 3, 64, 64)
    expected = tower(pixels).last_hidden_state
    assert torch.equal(model.model.vision_tower(pixel_values=pixels).last_hidden_state, expected)
    assert model.model.vision_tower is tower


@pytest.mark.parametrize("part", ["vision_tower: {}", "vision_tower: {lora: {rank: 2}}"])
def test_a_tower_that_is_trained_has_no_cache(chats: Path, tmp_path: Path, part: str) -> None:
    cache = caches(tmp_path, "vision_cache")
    with pytest.raises(ValueError, match=r"holds features of the vision tower, which this stage changes\. Leave out"):
        recipe(chats / "one", f"stages.0.parts={{world_projector: {{}}, {part}}}", *cache)
    later = (
        f"stages=[{{name: see, steps: 1, parts: {{world_projector: {{}}, {part}}}, data: &data {{sources: "
        f"[{{kind: micro-world}}]}}}}, {{name: read, steps: 1, parts: {{world_projector: {{}}}}, data: {{sources: "
        f"[{{kind: micro-world}}], vision_cache: {tmp_path}}}}}]"
    )
    with pytest.raises(ValueError, match=r"stages\.1\.data\.vision_cache .* which stage see before it changes"):
        load_recipe("smoke", [later])


def test_features_of_other_weights_or_settings_are_refused(
    built: Path, chats: Path, tmp_path: Path, pair: Any, build: Callable[[], Any], theworld: Run
) -> None:
    with pytest.raises(
        UsageError,
        match=r"stages\.0\.data\.vision_cache is \S*features, which has no features of gemma3-vision-\w+, but those of "
        r".*gemma3-vision-\w+.*theworld cache build --recipe",
    ):
        run_recipe(recipe(chats / "one", *caches(built, "vision_cache"), "seed=5"), tmp_path / "seed")
    with pytest.raises(UsageError, match=r"no features of gemma3-vision"):
        run_recipe(recipe(chats / "one", *caches(built, "vision_cache"), "model.dtype=bfloat16"), tmp_path / "bfloat16")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"data\.cache is .*, but none at all"):
        run_recipe(recipe(chats / "one", *caches(tmp_path / "empty", "cache")), tmp_path / "nothing")
    model, processor = build()
    key, images = key_of(model, processor), processor.image_processor
    for name, value in {
        "size": {"height": 32, "width": 32}, "image_mean": [0.4, 0.5, 0.5], "resample": 3,
        "rescale_factor": 1 / 127, "do_normalize": False,
    }.items():  # fmt: skip
        before = getattr(images, name)
        setattr(images, name, value)
        assert key_of(model, processor) != key, name
        setattr(images, name, before)
    processor.images_kwargs = {**processor.images_kwargs, "do_pan_and_scan": True}
    assert key_of(model, processor) != key
    processor.images_kwargs["do_pan_and_scan"] = False
    assert key_of(model, processor) == key
    with torch.no_grad():
        next(model.model.vision_tower.parameters()).flatten()[0] += 1e-3
    assert key_of(model, processor) != key
    model.model.vision_tower.requires_grad_(True)
    with pytest.raises(ValueError, match="gemma3-vision is being trained"):
        vision_key(model, processor)


def test_every_way_to_load_the_pair_gives_one_key(pair: Any, checkpoint: Path) -> None:
    from theworld_fusion import load_model, load_processor

    assert key_of(load_model(str(checkpoint)), load_processor(str(checkpoint))) == key_of(*pair)


def test_a_killed_build_goes_on(chats: Path, tmp_path: Path, theworld: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed, it keeps what was committed; the next build makes the rest, and no more."""
    out = tmp_path / "features"
    changes = changed(chats / "one", *caches(out))
    words = [word for one in changes for word in ("--set", one)]
    script = (
        "import time; from theworld_train import cache; from theworld_encoders import features;"
        "features._SHARD_BYTES = 1;"
        "features.FeatureCache.__init__.__kwdefaults__['shard_bytes'] = 1;"
        "encode = cache.picture_features;"
        "cache.picture_features = lambda *args: time.sleep(0.3) or encode(*args);"
        "from theworld_train.cli import main; main()"
    )
    command = [sys.executable, "-c", script, "cache", "build", "--recipe", "smoke", *words]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=dict(os.environ))
    for _ in range(6000):
        if out.is_dir() and len(shard_paths(out)) >= 4:
            break
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    there = len(shard_paths(out))
    assert 4 <= there < 14
    told = fill(theworld, changes)
    encoded = int(told.out.split("inputs: ")[1].split(" encoded")[0])
    assert 0 < encoded < 7
    assert "8 inputs: 0 encoded, 8 were in" in fill(theworld, changes).out
    run_recipe(recipe(chats / "one"), tmp_path / "live")
    run_recipe(load_recipe("smoke", changes), tmp_path / "cached")
    assert weights(tmp_path / "cached") == weights(tmp_path / "live")


def test_two_processes_fill_it_together(chats: Path, tmp_path: Path, theworld: Run) -> None:
    out = tmp_path / "features"
    changes = changed(chats / "one", *caches(out))
    words = [word for one in changes for word in ("--set", one)]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python", sys.executable]
    entry = ["-c", "from theworld_train.cli import main; main()", "cache", "build", "--recipe", "smoke", *words]
    command = [sys.executable, *launcher, *entry]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    assert "process 1 of 2: " in done.stdout
    assert "process 2 of 2: " in done.stdout
    assert "8 inputs: 0 encoded, 8 were in" in fill(theworld, changes).out


def test_dead_rows_are_listed_and_the_rest_is_built(theworld: Run, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    random_picture(1).save(tmp_path / "1.png")
    write(tmp_path / "rows" / "rows.jsonl", [["broken.png"], ["1.png"], ["gone.png"]])
    with (tmp_path / "rows" / "rows.jsonl").open("a") as file:
        file.write("\n{")
    told = fill(theworld, changed(tmp_path / "rows", *caches(tmp_path / "features", "vision_cache")))
    assert "4 inputs: 1 encoded, 0 were in the cache of projector, 3 cannot be read" in told.out
    dead = [json.loads(line) for line in (tmp_path / "features" / "dead.jsonl").read_text().splitlines()]
    assert [entry["path"].partition(" of ")[0] for entry in dead] == ["row 1", "row 3", "row 4"]


def test_a_stream_is_built_too(theworld: Run, chats: Path, tmp_path: Path) -> None:
    changes = changed(chats / "one", "stages.0.data.sources.0.stream=true", *caches(tmp_path / "features"))
    told = fill(theworld, changes)
    assert "each row of a stream make about" in told.err
    assert "8 inputs: 7 encoded" in told.out


def test_what_the_command_refuses(theworld: Run, chats: Path, tmp_path: Path) -> None:
    cases = {
        ("--recipe", "smoke"): "no stage of smoke has a data.cache or data.vision_cache to fill",
        ("--recipe", "smoke", "--out", tmp_path): "--recipe says what --out would",
        ("--recipe", "smoke", "--dtype", "float32"): "--recipe says what --dtype would",
        ("--data", chats, "--out", tmp_path, "--set", "seed=1"): "--set changes a recipe",
        ("--data", chats): "give --data and --out, or --recipe",
    }
    for arguments, message in cases.items():
        told = theworld("cache", "build", *arguments)
        assert told.code == 2, arguments
        assert message in told.err
        assert "Traceback" not in told.err


def test_held_out_examples_have_features_where_all_have_them(built: Path, chats: Path, pair: Any) -> None:
    model, processor = pair
    data = DataSettings.model_validate(
        {
            "sources": [{"kind": "chat", "path": str(chats / "one")}],
            "holdout": 0.999,
            "vision_cache": str(built),
        }
    )
    found = held_out(data, processor, 20, vision_key=key_of(model, processor))
    assert len(found) == 9
    assert all(example.image_features is not None and example.world_features is None for example in found)
    assert sum(len(example.image_features or ()) for example in found) == 8
    random_picture(90).save(chats / "90.png")
    if not (chats / "more").exists():
        write(chats / "more" / "rows.jsonl", [["90.png"]])
    sources = [*data.sources, open_more(chats)]
    found = held_out(data.model_copy(update={"sources": sources}), processor, 20, vision_key=key_of(model, processor))
    assert len(found) == 10
    assert all(example.image_features is None for example in found)


def open_more(chats: Path) -> Any:
    more = {"sources": [{"kind": "chat", "path": str(chats / "more")}]}
    return DataSettings.model_validate(more).sources[0]


def test_what_is_kept_of_a_clip_is_its_last_frame(pair: Any, tmp_path: Path) -> None:
    from theworld_train.vision import picture_features, picture_pixels, seen

    model, processor = pair
    clip = random_clip(3)
    assert seen(clip) is clip[-1]
    assert torch.equal(picture_pixels(processor, clip), picture_pixels(processor, clip[-1]))
    features = picture_features(model, picture_pixels(processor, clip))
    assert features.shape == (1, 16, 64)
    with FeatureCache(tmp_path, key_of(model, processor)) as cache:
        assert cache.key(seen(clip)) == cache.key(clip[-1])
