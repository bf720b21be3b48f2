"""Encoders as the command names them: ``NAME`` or ``NAME=WEIGHTS``."""

from collections.abc import Sequence
from pathlib import Path

import torch

from theworld_encoders import Encoder, load_encoder
from theworld_encoders.controls import CONTROLS
from theworld_encoders.registry import DEFAULT_ENCODER, encoder_class
from theworld_train.errors import UsageError


def check_names(names: Sequence[str], world: str | None, *, tiny: bool) -> None:
    """Refuse what cannot be loaded, before the first of them is.

    Raises:
        EncoderError: a name is unknown, or its plug-in is broken.
        UsageError: toy weights and others are asked for, or there are no toy weights of one.
    """
    for given in names:
        name, _, weights = given.partition("=")
        encoder_class(name)
        if tiny and (weights or world):
            raise UsageError(f"--tiny is toy weights, and there is {weights or world} too. Leave one of them out.")
        if tiny:
            _toy(name)


def load_named(given: str, world: str | None, *, frame_size: int | None, tiny: Path | None) -> Encoder:
    """The encoder, on the accelerator where there is one.

    Args:
        tiny: a folder that toy weights are written to.

    Raises:
        EncoderError: its weights are not there, or not what they should be.
    """
    name, _, weights = given.partition("=")
    source: str | Path | None = weights or world
    if tiny is not None:
        from theworld_encoders.testing import TINY_FRAME_SIZE
        from theworld_encoders.testing_all import TINY_ENCODERS

        inner = _toy(name)
        source = tiny / inner
        if not source.is_dir():
            TINY_ENCODERS[inner](source)
        frame_size = frame_size or TINY_FRAME_SIZE
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    encoder = load_encoder(name, source, frame_size=frame_size, device=device)
    encoder.spec.grid(1, encoder.spec.frame_size, encoder.spec.frame_size)  # a wrong size fails here, in one line
    return encoder


def _toy(name: str) -> str:
    """The encoder whose toy weights ``name`` takes."""
    from theworld_encoders.testing_all import TINY_ENCODERS

    control, _, inner = name.partition(":")
    found = (inner or DEFAULT_ENCODER) if control in CONTROLS else name
    if found not in TINY_ENCODERS:
        raise UsageError(f"there are no toy weights of {found}. Leave --tiny out, or use {', '.join(TINY_ENCODERS)}.")
    return found
