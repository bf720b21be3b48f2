"""What all diffusion transformers share, as feature encoders and as predictors: building, random weights, noise."""

import inspect
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from theworld_encoders.errors import EncoderError


def build_transformer(class_name: str, config: dict[str, Any], **changes: Any) -> Any:
    """A transformer of diffusers, with its defaults for what ``config`` leaves out, and ``changes`` over it.

    Raises:
        EncoderError: the configuration has a setting that this diffusers does not know.
    """
    import diffusers

    transformer = getattr(diffusers, class_name)
    unknown = sorted(set(config) - set(inspect.signature(transformer.__init__).parameters))
    if unknown:
        raise EncoderError(
            f"{class_name} has no setting {', '.join(unknown)}. Install the diffusers that wrote the checkpoint."
        )
    return transformer(**{**config, **changes})


def with_settings(name: str, defaults: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """``given`` over ``defaults``.

    Raises:
        EncoderError: a setting is not among the defaults; the message lists the known ones.
    """
    unknown = sorted(set(given) - set(defaults))
    if unknown:
        raise EncoderError(f"{name} has no setting {', '.join(unknown)}. Known settings: {', '.join(defaults)}.")
    return {**defaults, **given}


def fill_random(module: nn.Module) -> None:
    """Fill every parameter at random, those of norms with ones: diffusers' own layers cannot do it themselves."""
    for part in module.modules():
        if hasattr(part, "reset_parameters"):
            part.reset_parameters()  # pyright: ignore[reportCallIssue]
            continue
        for parameter in part.parameters(recurse=False):
            if parameter.ndim == 1:
                nn.init.ones_(parameter)
            else:
                nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)


def seeded_noise(shape: tuple[int, ...], seed: int, like: Tensor) -> Float[Tensor, "..."]:
    """Standard noise of one item. Every item of that shape gets the same, whatever stands beside it in the batch."""
    generator = torch.Generator().manual_seed(seed)  # on the host: a device's own generator draws other numbers
    return torch.randn(shape, generator=generator, device="cpu").to(like)
