"""Every field of a recipe that belongs to the data shows in the batches that training gets."""

import json
import multiprocessing
import zipfile
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import pytest

from theworld_encoders import FeatureCache, load_image
from theworld_encoders.features import encoder_key
from theworld_fusion.testing import random_picture
from theworld_train.data import Batches, load, maker
from theworld_train.data.sources import open_source
from theworld_train.errors import UsageError
from theworld_train.recipe_fields import leaves
from theworld_train.recipe_file import load_recipe
from theworld_train.vision import picture_features, picture_pixels

SOURCE = "stages.*.data.sources.*."
PATHS = {"chat": "", "datacomp": "/datacomp", "llava-cc3m": "", "vsr": "/vsr", "spatial-rgpt": ""}
"""Where each kind lies in a folder."""
IMAGES = {"vsr": ", images: {here}", "spatial-rgpt": ", images: {here}"}
ONE = {kind: f"{{{{kind: {kind}, path: {{here}}{path}{IMAGES.get(kind, '')}}}}}" for kind, path in PATHS.items()}
CHAT, DATACOMP, VSR, SPATIAL = (ONE[kind] for kind in ("chat", "datacomp", "vsr", "spatial-rgpt"))
WORLD = "{{kind: micro-world, groups: 2, families: [direction/free, colour/free]}}"

CASES = {
    **{f"{SOURCE}{kind}.weight": (f"[{one}, {WORLD}]", "sources.0.weight=9") for kind, one in ONE.items()},
    **{f"{SOURCE}{kind}.limit": (f"[{one}]", "sources.0.limit=1") for kind, one in ONE.items()},
    **{f"{SOURCE}{kind}.kind": (f"[{one}]", f"sources=[{WORLD}]") for kind, one in ONE.items()},
    **{f"{SOURCE}{kind}.path": (f"[{ONE[kind]}]", f"sources.0.path={{other}}{path}") for kind, path in PATHS.items()},
    f"{SOURCE}chat.split": ("[{{kind: chat, path: owner/chats}}]", "sources.0.split=validation"),
    f"{SOURCE}chat.stream": (f"[{CHAT}]", "sources.0.stream=true"),
    f"{SOURCE}datacomp.prompt": (f"[{DATACOMP}]", "sources.0.prompt=What?"),
    f"{SOURCE}datacomp.stream": (f"[{DATACOMP}]", "sources.0.stream=true"),
    f"{SOURCE}vsr.images": (f"[{VSR}]", "sources.0.images={other}"),
    f"{SOURCE}vsr.split": (f"[{VSR}]", "sources.0.split=validation"),
    f"{SOURCE}spatial-rgpt.images": (f"[{SPATIAL}]", "sources.0.images={other}"),
    f"{SOURCE}spatial-rgpt.draw_boxes": (f"[{SPATIAL}]", "sources.0.draw_boxes=false"),
    f"{SOURCE}micro-world.weight": (f"[{WORLD}, {CHAT}]", "sources.0.weight=9"),
    f"{SOURCE}micro-world.limit": (f"[{WORLD}]", "sources.0.limit=3"),
    f"{SOURCE}micro-world.kind": (f"[{WORLD}]", f"sources=[{CHAT}]"),
    f"{SOURCE}micro-world.groups": (f"[{WORLD}]", "sources.0.groups=3"),
    f"{SOURCE}micro-world.families": (f"[{WORLD}]", "sources.0.families=[next/free]"),
    f"{SOURCE}micro-world.level": (f"[{WORLD}]", "sources.0.level=hard"),
    f"{SOURCE}micro-world.size": (f"[{WORLD}]", "sources.0.size=64"),
    f"{SOURCE}micro-world.seed": (f"[{WORLD}]", "sources.0.seed=2"),
    "stages.*.data.shuffle": (f"[{CHAT}]", "shuffle=1"),
    "stages.*.data.holdout": ("[{{kind: micro-world, groups: 6}}]", "holdout=0.5"),
    "stages.*.data.cache": (f"[{CHAT}]", "cache={features}"),
    "stages.*.data.vision_cache": (f"[{CHAT}]", "vision_cache={features}"),
    "stages.*.data.max_tokens": (f"[{CHAT}]", "max_tokens=30"),
    "stages.*.data.on_long": (f"[{CHAT}]", "on_long=skip"),
    "stages.*.data.on_broken": ("[{{kind: chat, path: {here}/broken}}]", "on_broken=skip"),
    "stages.*.data.remember": ("[{{kind: chat, path: {here}, limit: 2}}]", "remember=2"),
    "stages.*.data.workers": (f"[{WORLD}]", "workers=1"),
}
"""By field: the sources of a recipe, and a change of that field alone."""

VISION_KEY = "gemma3-vision"
"""Any will do: that it tells towers apart is tested elsewhere."""

REFUSE = ("max_tokens", "on_long", "on_broken")
"""Fields that say what is refused; no other case may get its effect from an error."""

BESIDE = {"stages.*.data.on_long": ["max_tokens=30", "shuffle=6"]}
"""What else a case needs."""


def test_every_field_of_the_data_has_a_case() -> None:
    assert set(CASES) == {leaf for leaf in leaves() if leaf.startswith("stages.*.data.")}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Every kind of data set in its published layout, twice, with other contents."""
    here, other = (tmp_path_factory.mktemp(name) for name in ("here", "other"))
    for folder, seed in ((here, 0), (other, 9)):
        for number in range(6):
            random_picture(seed + number).save(folder / f"{number}.jpg", "PNG")
        said = [chat(f"{number}.jpg", f"answer {seed + number}") for number in range(6)]
        (folder / "chat.jsonl").write_text("\n".join(map(json.dumps, said)))
        (folder / "broken").mkdir()
        lines = [*map(json.dumps, said[:1]), "{"]
        (folder / "broken/chat.jsonl").write_text("\n".join(lines).replace("0.jpg", "../0.jpg"))
        fetched(folder / "datacomp", seed)
        llava(folder, seed)
        vsr(folder / "vsr", seed)
        spatial_rgpt(folder, seed)
    return here, other


def chat(picture: str, answer: str) -> dict[str, Any]:
    blocks = [{"type": "image", "image": picture}, {"type": "text", "text": "What?"}]
    return {"messages": [{"role": "user", "content": blocks}, {"role": "assistant", "content": answer}]}


def fetched(folder: Path, seed: int) -> None:
    folder.mkdir()
    rows = []
    for number in range(6):
        random_picture(seed + number).save(content := BytesIO(), "PNG")
        image = {"bytes": content.getvalue(), "path": f"{number}.png"}
        url = f"https://example.com/{number}"
        rows.append({"key": str(number), "url": url, "image": image, "sha256": "0", "text": f"text {seed + number}"})
    names = ("key", "url", "sha256", "text")
    features = datasets.Features({**{name: datasets.Value("string") for name in names}, "image": datasets.Image()})
    datasets.Dataset.from_list(rows, features=features).to_parquet(folder / "0.parquet")


def llava(folder: Path, seed: int) -> None:
    rows = []
    with zipfile.ZipFile(folder / "images.zip", "w") as archive:
        for number in range(6):
            name = f"GCC_train_{number}.jpg"
            random_picture(seed + number).save(content := BytesIO(), "PNG")
            archive.writestr(name, content.getvalue())
            said = [("human", "Describe it.\n<image>"), ("gpt", f"caption {seed + number}")]
            rows.append({"id": name, "image": name, "conversations": [{"from": f, "value": v} for f, v in said]})
    (folder / "chat.json").write_text(json.dumps(rows))


def vsr(folder: Path, seed: int) -> None:
    folder.mkdir()
    for split in ("train", "dev"):
        rows = [
            {"image": f"{number}.jpg", "caption": f"It is {split} {seed + number}.", "label": number % 2}
            for number in range(6)
        ]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))


def spatial_rgpt(folder: Path, seed: int) -> None:
    rows = []
    for number in range(6):
        said = [("human", "<image>\nWhat is <mask> <depth>?"), ("gpt", f"Region [0] is {seed + number}.")]
        turns = [{"from": speaker, "value": text} for speaker, text in said]
        rows.append({"filename": str(number), "conversations": turns, "bbox": [[2, 2, 20, 20]], "rle": []})
    (folder / "result_10_depth_convs.json").write_text(json.dumps(rows))


@pytest.fixture(scope="module")
def features(pair: Any, published: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, (model, processor) = tmp_path_factory.mktemp("features"), pair
    pictures = [published[0] / f"{number}.jpg" for number in range(6)]
    with FeatureCache(folder, model.model.world_encoder) as cache:
        cache.features(pictures)
    with FeatureCache(folder, VISION_KEY) as cache:
        for picture in pictures:
            pixels = picture_pixels(processor, load_image(picture))
            cache.put(cache.key(picture), picture_features(model, pixels))
    return folder


@pytest.fixture(autouse=True)
def hub(monkeypatch: pytest.MonkeyPatch, published: tuple[Path, Path]) -> None:
    """A data set ``owner/chats`` with two splits."""
    load_dataset = datasets.load_dataset
    of_split = {"train": published[0] / "chat.jsonl", "validation": published[1] / "chat.jsonl"}

    def stand_in(path: str, *, split: str, streaming: bool, **options: Any) -> Any:
        if path != "owner/chats":
            return load_dataset(path, split=split, streaming=streaming, **options)
        rows = [json.loads(line) for line in of_split[split].read_text().splitlines()]
        packed = [{"messages": json.dumps(row["messages"]).replace('"0', f'"{published[0]}/0')} for row in rows]
        return datasets.Dataset.from_list(packed[:1])

    monkeypatch.setattr(datasets, "load_dataset", stand_in)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with every conversation whose pictures are read here."""
    read, load_chat = list[int](), maker.load_chat
    monkeypatch.setattr(maker, "load_chat", lambda messages, **how: read.append(1) or load_chat(messages, **how))
    return read


def effect(changes: list[str], pair: Any, reads: list[int]) -> list[Any]:
    """What a run gets: the kind of each source's rows, some batches by content, and the error that ends them."""
    reads.clear()
    recipe = load_recipe("smoke", changes)
    data, processor = recipe.stages[0].data, pair[1]
    seen: list[Any] = [type(open_source(one, num_frames=5).rows).__name__ for one in data.sources]
    keys = {"encoder_key": encoder_key(pair[0].model.world_encoder)} if data.cache else {}
    options: dict[str, Any] = keys | ({"vision_key": VISION_KEY} if data.vision_cache else {})
    try:
        for batch in islice(load(Batches(data, recipe.batch, processor, seed=0, **options)), 4):
            tensors = sorted((name, digest(tensor)) for name, tensor in batch["inputs"].items())
            seen.append((batch["keys"], batch["skipped"], batch["cache_misses"], tensors))
            seen.append((len(multiprocessing.active_children()), len(reads)))
    except UsageError as error:
        seen.append(str(error))
    return seen


def digest(value: Any) -> Any:
    return [digest(one) for one in value] if isinstance(value, list) else value.double().sum().item()


@pytest.mark.parametrize("field", CASES)
def test_another_value_gives_other_batches(
    field: str, published: Any, features: Path, pair: Any, reads: list[int]
) -> None:
    sources, change = CASES[field]
    places = {"here": published[0], "other": published[1], "features": features}
    start = [f"stages.0.data.sources={sources}", "stages.0.data.workers=0", "batch.size=1", "model.num_frames=5"]
    start += [f"stages.0.data.{one}" for one in BESIDE.get(field, [])]
    start = [one.format(**places) for one in start]
    before = effect(start, pair, reads)
    assert before == effect(start, pair, reads)
    after = effect([*start, f"stages.0.data.{change}".format(**places)], pair, reads)
    assert after != before
    if not field.endswith(REFUSE):
        assert not any(isinstance(batches[-1], str) for batches in (before, after))
