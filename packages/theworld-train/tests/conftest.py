"""What tests share: the command, and one toy model for all that do not change its weights."""

import gc
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import av
import datasets.config
import numpy as np
import pytest
import torch

from theworld_fusion import TheWorldForConditionalGeneration, TheWorldProcessor, assemble
from theworld_fusion.testing import TINY_WORLD, chat, make_tiny_checkpoint, random_clip, random_picture
from theworld_train.cli import main
from theworld_train.data import Collator, Example
from theworld_train.demo.training import TrainSettings, train

Pair = tuple[TheWorldForConditionalGeneration, TheWorldProcessor]


def pytest_collection_finish() -> None:
    """All libraries are there now: leave them out of every search for garbage, here and in forks."""
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def data_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Copies that ``datasets`` makes of test data go with the test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
        yield


@pytest.fixture(scope="session")
def film() -> Callable[[Path], None]:
    """Writes a clip of twelve frames."""

    def film(path: Path) -> None:
        with av.open(str(path), "w") as container:
            stream = container.add_stream("mpeg4", rate=10)
            stream.width = stream.height = 64
            for picture in random_clip(7, 12):
                frame = np.asarray(picture.resize((64, 64)))
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode(None))

    return film


class Result(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def theworld(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs the command in this process, as its entry point does."""

    def run(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["theworld", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        return Result(int(stop.value.code or 0), *capfd.readouterr())

    return run


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Of the toy VLM and of the toy world model."""
    return make_tiny_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def world(folders: tuple[Path, Path]) -> Path:
    return folders[1]


@pytest.fixture(scope="session")
def build(folders: tuple[Path, Path]) -> Callable[[], Pair]:
    def build() -> Pair:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return assemble(*folders, **TINY_WORLD)

    return build


@pytest.fixture(scope="session")
def pair(build: Callable[[], Pair]) -> Pair:
    """A shared model: not to be changed."""
    return build()


@pytest.fixture(scope="session")
def talker(build: Callable[[], Pair]) -> Pair:
    """A shared model whose answers are words, not the same to every question: not to be changed."""
    model, processor = build()
    said = {"Which way?": "to the far left", "What is it?": "a small red ball", "And now?": "nothing at all"}
    examples = [
        Example(messages=[*chat(shown, text=text), {"role": "assistant", "content": answer}])
        for (text, answer), shown in zip(
            said.items(), (random_picture(1), random_clip(1), random_picture(2)), strict=True
        )
    ]
    settings = TrainSettings(steps=40, batch_size=3, learning_rate=2e-3, seed=0, warmup_steps=5)
    train(model, examples, Collator(processor), settings, report=lambda *_: None)
    return model.eval(), processor


@pytest.fixture(scope="session")
def talking(talker: Pair, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, saved as a whole."""
    folder = tmp_path_factory.mktemp("talking")
    for part in talker:
        part.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def checkpoint(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model, saved as a whole."""
    folder = tmp_path_factory.mktemp("checkpoint")
    for part in pair:
        part.save_pretrained(folder)
    return folder
