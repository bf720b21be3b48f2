"""One toy checkpoint pair for all tests; tests that change weights assemble their own model from it."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from theworld_fusion import TheWorldForConditionalGeneration, TheWorldProcessor, assemble
from theworld_fusion.testing import TINY_WORLD, make_tiny_checkpoint

Pair = tuple[TheWorldForConditionalGeneration, TheWorldProcessor]


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def build(folders: tuple[Path, Path]) -> Callable[..., Pair]:
    def build(**overrides: object) -> Pair:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return assemble(*folders, **{**TINY_WORLD, **overrides})

    return build


@pytest.fixture(scope="session")
def pair(build: Callable[..., Pair]) -> Pair:
    """A shared model: not to be changed."""
    return build()
