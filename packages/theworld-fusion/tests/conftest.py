"""One toy checkpoint pair for all tests; tests that change weights assemble their own model from it."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from theworld_fusion import TheWorldForConditionalGeneration, TheWorldProcessor, assemble
from theworld_fusion.testing import TINY_WORLD, make_tiny_checkpoint

Pair = tuple[TheWorldForConditionalGeneration, TheWorldProcessor]

FUSIONS = ("sequence", "gated")
"""The kinds of ``world_fusion`` that every check of generation and of the tools around it runs with."""


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


@pytest.fixture(scope="session", params=FUSIONS)
def fusion(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session")
def build_open(build: Callable[..., Pair]) -> Callable[..., Pair]:
    """Like ``build``, with the gate open if there is one: it starts closed, and the world would change nothing."""

    def build_open(**overrides: object) -> Pair:
        model, processor = build(**overrides)
        if hasattr(model.model, "world_gate"):
            torch.nn.init.ones_(model.model.world_gate.bias)
        return model, processor

    return build_open


@pytest.fixture(scope="session")
def build_lively(build_open: Callable[..., Pair]) -> Callable[..., Pair]:
    """Like ``build_open``, but answers depend on the whole prompt: with its tied head a toy repeats one word."""

    def build_lively(*, head_seed: int = 0, **overrides: object) -> Pair:
        model, processor = build_open(**overrides)
        rows = torch.randn(model.lm_head.weight.shape, generator=torch.Generator().manual_seed(head_seed))
        model.lm_head.weight = torch.nn.Parameter(rows)
        return model, processor

    return build_lively


@pytest.fixture(scope="session")
def lively(build_lively: Callable[..., Pair], fusion: str) -> Pair:
    """A shared model with answers that are worth comparing: not to be changed."""
    return build_lively(world_fusion=fusion)
