"""Pictures and frames to an encoder's pixels, from its spec alone, so that it runs in data workers."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps
from torch import Tensor

from theworld_encoders.errors import MediaError
from theworld_encoders.images import to_rgb
from theworld_encoders.spec import EncoderSpec

Item = Any
"""One picture (PIL image, array or tensor of 3 dimensions) or one clip (a sequence of them, or 4 dimensions)."""


def is_clip(item: Item) -> bool:
    """Whether ``item`` is a clip, not a picture: a sequence of frames, or an array with a time axis first."""
    return isinstance(item, Sequence) or (isinstance(item, np.ndarray | Tensor) and item.ndim == 4)


def to_frames(item: Item) -> list[Image.Image]:
    """The frames of ``item`` as RGB pictures, oldest first; a picture is one frame.

    PIL images may be of any mode: they are turned upright, laid on white and scaled to 8 bits by ``to_rgb``. Arrays and
    tensors hold 8-bit values as (h, w, 3) or (3, h, w); a leading axis is time. Grey and RGBA arrays are refused: their
    axes can be read in two ways, and ``Image.fromarray`` says which is meant.

    Raises:
        MediaError: the clip is empty, or something in it is no picture.
    """
    if not is_clip(item):
        return [_to_rgb(item)]
    if len(item) == 0:
        raise MediaError("a clip has no frames. Give at least one.")
    return [_to_rgb(frame) for frame in item]


def _to_rgb(frame: Any) -> Image.Image:
    if isinstance(frame, Image.Image):
        return to_rgb(frame)
    if not isinstance(frame, np.ndarray | Tensor):
        raise MediaError(
            f"a frame is of type {type(frame).__name__}. "
            "Give PIL images, or 8-bit arrays or tensors of shape (h, w, 3) or (3, h, w)."
        )
    array = np.asarray(frame)
    if array.ndim == 3 and array.shape[0] == 3 and array.shape[2] != 3:
        array = np.moveaxis(array, 0, -1)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise MediaError(
            f"a frame is an array of {array.dtype} with shape {tuple(array.shape)}. "
            "Give 8-bit values (0 to 255) of shape (h, w, 3) or (3, h, w)."
        )
    return to_rgb(Image.fromarray(array))


def preprocess(item: Item, spec: EncoderSpec) -> Float[Tensor, "t 3 h w"]:
    """One picture or clip as the encoder wants it: resized to its frame size, normalised, fitted to its frame rule.

    How a frame becomes a square, and by which filter, the spec says. Cosmos squashes by Lanczos, as diffusers'
    ``VideoProcessor`` does by default, whose values these equal, and as Gemma 3's own image branch squashes, so both
    branches see one geometry. A clip that is too short for the frame rule is filled up with its last frame: nothing
    that was given is dropped.

    Raises:
        MediaError: the item is empty or no picture.
    """
    frames = [_to_square(frame, spec) for frame in to_frames(item)]
    frames += frames[-1:] * (spec.fit_frames(len(frames)) - len(frames))
    pixels = torch.from_numpy(np.stack([np.asarray(frame) for frame in frames])).permute(0, 3, 1, 2)
    mean, std = (torch.tensor(value).view(-1, 1, 1) for value in (spec.pixel_mean, spec.pixel_std))
    return (pixels.float() / 255 - mean) / std


def _to_square(frame: Image.Image, spec: EncoderSpec) -> Image.Image:
    size, resample = spec.frame_size, Image.Resampling[spec.resample.upper()]
    if spec.resize == "crop":
        return ImageOps.fit(frame, (size, size), resample)
    if spec.resize == "letterbox":
        # Not ImageOps.pad, which makes the short side of a very long picture 0 pixels and fails.
        width, height = (max(1, round(side * size / max(frame.size))) for side in frame.size)
        square, resized = Image.new("RGB", (size, size)), frame.resize((width, height), resample)
        square.paste(resized, ((size - width) // 2, (size - height) // 2))
        return square
    return frame.resize((size, size), resample)
