"""No field of a recipe is idle: each has a case, here or where it is read; a new one without a case fails."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from theworld_fusion import assemble
from theworld_fusion.testing import TINY_WORLD
from theworld_train.recipe import Recipe
from theworld_train.recipe_fields import leaves
from theworld_train.recipe_file import load_recipe
from theworld_train.trainable import apply_parts, parameter_groups

START = (
    "optim.lr=1e-3",
    "stages.0.parts.language_model.lora={rank: 2, alpha: 4}",
    "stages.0.parts.vision_tower.lr=1e-5",
    "optim.weight_decay=0.1",
)

CASES = {
    "stages.*.parts.*.lr": "stages.0.parts.vision_tower.lr=1e-6",
    "stages.*.parts.*.lora.rank": "stages.0.parts.language_model.lora.rank=3",
    "stages.*.parts.*.lora.alpha": "stages.0.parts.language_model.lora.alpha=5",
    "stages.*.parts.*.lora.dropout": "stages.0.parts.language_model.lora.dropout=0.5",
    "stages.*.parts.*.lora.targets": "stages.0.parts.language_model.lora.targets=[q_proj]",
    "optim.lr": "optim.lr=2e-3",
    "optim.weight_decay": "optim.weight_decay=0.2",
}
"""What is trained: for each field another value, which has to show in the model or in the optimiser's groups."""

OF_THE_RUN = (
    "name", "seed", "model.", "stages.*.name", "stages.*.steps", "batch.", "optim.", "eval.", "save.", "log.",
)  # fmt: skip
"""Fields, or all below a section, that the tests of runs go through."""

OF_THE_DATA = ("stages.*.data.",)
"""Those that the tests of data go through."""


def belongs(leaf: str, owners: tuple[str, ...]) -> bool:
    return any(leaf == owner or (owner.endswith(".") and leaf.startswith(owner)) for owner in owners)


def test_every_field_has_a_case() -> None:
    found = set(leaves())
    assert set(CASES) <= found
    assert not {leaf for leaf in found - set(CASES) if not belongs(leaf, OF_THE_RUN) and not belongs(leaf, OF_THE_DATA)}


@pytest.fixture(scope="module")
def effect(folders: tuple[Path, Path]) -> Callable[[Recipe], Any]:
    def effect(recipe: Recipe) -> Any:
        """All that the parts of a recipe's first stage say to the model and to the optimiser."""
        model, _ = assemble(*folders, **TINY_WORLD)
        rows = apply_parts(model, recipe.stages[0].parts, recipe.optim.lr)
        groups = parameter_groups(model, rows, recipe.optim.weight_decay)
        lora = [
            (name, dict(layer.scaling), {key: getattr(one, "p", 0.0) for key, one in layer.lora_dropout.items()})
            for name, layer in model.named_modules()
            if hasattr(layer, "lora_A")
        ]
        shapes = {name: (parameter.shape, parameter.requires_grad) for name, parameter in model.named_parameters()}
        return rows, lora, shapes, [{key: one for key, one in group.items() if key != "params"} for group in groups]

    return effect


@pytest.fixture(scope="module")
def start(effect: Callable[[Recipe], Any]) -> Any:
    return effect(load_recipe("smoke", START))


def test_the_same_recipe_has_the_same_effect(effect: Callable[[Recipe], Any], start: Any) -> None:
    assert effect(load_recipe("smoke", START)) == start


@pytest.mark.parametrize("field", CASES)
def test_another_value_has_another_effect(effect: Callable[[Recipe], Any], start: Any, field: str) -> None:
    assert effect(load_recipe("smoke", [*START, CASES[field]])) != start


@pytest.mark.parametrize("part", ["vision_tower", "image_projector", "world_encoder"])
def test_every_part_shows(effect: Callable[[Recipe], Any], start: Any, part: str) -> None:
    assert effect(load_recipe("smoke", [*START, f"stages.0.parts.{part}={{}}"])) != start
