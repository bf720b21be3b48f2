"""What an ablation is, as typed records: a recipe, what varies, which questions are asked, and what counts as found."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from theworld_train.evaluate.tasks import AnyTask
from theworld_train.recipe import Settings

World = Literal[
    "on",
    "off",
    "zeros",
    "noise",
    "other-item",
    "shuffled-slots",
    "image-repeated",
    "random-init",
    "registers",
]
Swap = Literal["zeros", "noise", "other-item", "shuffled-slots", "image-repeated"]
"""Controls that a model which was not trained with them can be given at test time."""


class RecipeSettings(Settings):
    """A recipe, and what is changed of it."""

    recipe: str
    """Name of a shipped recipe, or path of a YAML file."""
    set: dict[str, Any] = {}
    """Values of fields by path, as ``--set`` takes them: ``optim.lr: 2e-5``."""


class Grid(Settings):
    """What varies. Every combination is an arm, which is trained once for each seed, from the same base."""

    world: tuple[World, ...] = Field(default=("on", "off"), min_length=1, strict=False)
    """What stands in the place of the world's features: they themselves, no world tokens, or a control."""
    encoder: tuple[str, ...] | None = Field(default=None, min_length=1, strict=False)
    """``model.encoder``."""
    encoder_settings: tuple[dict[str, Any], ...] | None = Field(default=None, min_length=1, strict=False)
    """``model.encoder_settings``, such as the block of a diffusion model: ``{block: 18}``."""
    slots: tuple[int, ...] | None = Field(default=None, min_length=1, strict=False)
    """``model.config.world_tokens_per_item``."""
    fusion: tuple[Literal["sequence", "gated"], ...] | None = Field(default=None, min_length=1, strict=False)
    """``model.config.world_fusion``."""
    placement: tuple[Literal["first", "beside_image"], ...] | None = Field(default=None, min_length=1, strict=False)
    """``model.config.world_placement``."""
    seed: tuple[int, ...] = Field(default=(0, 1, 2), min_length=1, strict=False)
    """The recipe's ``seed``: of what is new in the model, and of the order of the data."""


class Plan(Settings):
    """From a question to a verdict."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]+$")
    question: str
    """What is asked, in a sentence; the report's title."""
    recipe: str
    """Of every arm: name of a shipped recipe, or path of a YAML file."""
    set: dict[str, Any] = {}
    """Values of its fields by path, as ``theworld train --set`` takes them."""
    base: RecipeSettings | None = None
    """A recipe without a world (``model.config.world_fusion: none``) that is trained once; all arms start from the VLM
    that it gives. For toys: a published VLM knows pictures before it meets a world model."""
    grid: Grid = Grid()
    swaps: tuple[Swap, ...] = Field(default=(), strict=False)
    """Controls that models trained with the world on are also given at test time alone."""
    tasks: tuple[AnyTask, ...] = Field(min_length=1, strict=False)
    sums: dict[str, Annotated[tuple[str, ...], Field(strict=False, min_length=1)]] = {}
    """Kinds of question that there is a verdict on: a name, and its families. Default: all families together."""
    reference: World = "on"
    """What the other arms of the same settings are compared with."""
    level: float = Field(default=0.01, gt=0, lt=1)
    """A difference is found where its corrected p value lies below."""
    margin: float = Field(default=0.05, gt=0, lt=1)
    """Two arms are called the same where the interval of their difference lies within this, either way."""

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        grid = self.grid
        for axis in type(grid).model_fields:
            values = getattr(grid, axis) or ()
            if any(value in values[:place] for place, value in enumerate(values)):
                raise ValueError(f"grid.{axis} has a value twice. Give each once.")
        if self.reference not in grid.world:
            raise ValueError(
                f"reference is {self.reference!r}, which grid.world does not have. Add it, or give another."
            )
        if self.swaps and "on" not in grid.world:
            raise ValueError("swaps are of models that are trained with the world on. Add on to grid.world.")
        return self
