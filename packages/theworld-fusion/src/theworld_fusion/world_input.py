"""What the model takes of the world: pixels, or what the encoder makes of them."""

from collections.abc import Sequence

from torch import Tensor

WorldInput = Tensor | Sequence[Tensor]
"""One tensor where all items have one shape, else one tensor per item."""


def to_parameter(parameter: Tensor, items: WorldInput) -> list[Tensor]:
    """The items in the parameter's dtype and on its device; where it is offloaded, accelerate moves them."""
    device = None if parameter.is_meta else parameter.device
    return [item.to(device=device, dtype=parameter.dtype) for item in items]


def check_pixels(item: Tensor) -> None:
    """Only what is known without waiting for the device; the processor checks the values."""
    if item.ndim != 4 or item.shape[1] != 3:
        raise ValueError(
            f"an item of pixel_values_world has shape {tuple(item.shape)}. Give [frames, 3, height, width], as the "
            "processor does."
        )
    if not item.is_floating_point():
        raise ValueError(
            f"pixel_values_world is of {item.dtype}. Give floating point numbers in [-1, 1], as the processor does."
        )
