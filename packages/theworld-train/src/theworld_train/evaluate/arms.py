"""The arms of a comparison: the world on, off, or on with its encoder replaced by a control around the same weights."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from theworld_encoders import list_controls
from theworld_encoders.controls import Wrapping
from theworld_encoders.registry import encoder_class
from theworld_train.errors import UsageError

OTHER_ITEM = "other-item"
"""Not by the encoder's control: which item the other one is may depend on the whole task, not on the batch."""
_TRAINED = ("random-init", "registers")
ARMS = ("on", "off", *(name for name in list_controls() if name not in _TRAINED))
"""Those that any trained model has; a model that was trained with another control has that too."""


def split_arm(arm: str) -> tuple[Literal["on", "off"], str | None]:
    """World switch and control of an arm.

    Raises:
        UsageError: there is no such arm.
    """
    if arm in ("on", "off"):
        return arm, None
    if arm not in list_controls():
        raise UsageError(f"there is no arm {arm!r}. Use one of: {', '.join(ARMS)}.")
    return "on", arm


def check_arm(model: Any, world: str, control: str | None) -> None:
    """See that the model can be asked this way.

    Raises:
        UsageError: it has no world branch, or the control has to be trained with and was not.
    """
    if world == "off":
        if control is not None:
            raise UsageError(
                f"the world is off, so {control} would change nothing. Turn the world on, or leave it out."
            )
        return
    if getattr(model.config, "world_fusion", "none") == "none":
        raise UsageError("the model has no world branch. Evaluate it with the world off (--arm off).")
    encoder = model.model.world_encoder.spec.name
    trained_with = encoder.partition(":")[0]
    if control is None or control == trained_with:
        return
    if control not in list_controls():
        raise UsageError(f"there is no control {control!r}. Use one of: {', '.join(list_controls())}.")
    if control in _TRAINED:
        raise UsageError(
            f"{control} has to be trained with, and this model was trained with {encoder}: its answers would say "
            f"nothing. Train a model with model.encoder={control}:{encoder}, and evaluate that one with --arm on."
        )
    if trained_with in list_controls():
        raise UsageError(f"the model was trained with the control {encoder}. Evaluate it with --arm on or --arm off.")


@contextmanager
def with_control(model: Any, control: str | None) -> Iterator[None]:
    """While it is open, the model's world encoder is the registry's control around the very encoder that it has.

    The class, and so the code, is the one that a model is trained with. For ``other-item`` the encoder stays as it is,
    without the control if the model was trained with that: the runner gives it the other item's pixels.

    Raises:
        UsageError: as ``check_arm``.
    """
    check_arm(model, "on", control)
    held = model.model.world_encoder
    trained_with = held.spec.name.partition(":")[0]
    if takes_other_item(model, control):
        swapped = held.wrapped if trained_with == OTHER_ITEM else held
    elif control is None or control == trained_with:
        swapped = held
    else:
        made: Any = encoder_class(f"{control}:{held.spec.name}")
        # Controls without weights of the encoder are made from its numbers, the others around it.
        swapped = made(held) if issubclass(made, Wrapping) else made(held.spec, held.config)
    model.model.world_encoder = swapped
    try:
        yield
    finally:
        model.model.world_encoder = held


def takes_other_item(model: Any, control: str | None) -> bool:
    """Whether the world encoder is to see another item's pixels: asked for, or trained so."""
    trained_with = model.model.world_encoder.spec.name.partition(":")[0]
    return control == OTHER_ITEM or (control is None and trained_with == OTHER_ITEM)


def groups_of(keys: Sequence[str], groups: Sequence[str]) -> list[str]:
    """Each item's group; one without is a group of its own."""
    return [group or f"\0{key}" for key, group in zip(keys, groups, strict=True)]
