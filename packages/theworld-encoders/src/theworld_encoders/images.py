"""Reads a picture file into the RGB image that every encoder starts from, or says in one line why it cannot."""

import logging
import stat
import struct
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from theworld_encoders.errors import MediaError

logger = logging.getLogger(__name__)

# What Pillow's readers raise on damaged files, found by feeding them some 30,000.
_DAMAGE = (OSError, ValueError, SyntaxError, RuntimeError, TypeError, LookupError, ArithmeticError, struct.error)


def load_image(path: str | Path) -> Image.Image:
    """Read a picture file: first frame, upright, RGB, fully decoded.

    EXIF orientation is applied. Transparency is dropped, not blended with a background, as the VLM's own image
    processor does (`convert("RGB")`). Greyscale deeper than 8 bits is scaled from 0..65535 to 0..255, not clipped.

    Raises:
        MediaError: there is no such file, or it holds no picture, a damaged one, one above Pillow's limit of pixels,
            or one whose numbers have no fixed range (float, or integers outside 0..65535).
    """
    path = regular_file(path, "picture")
    name = repr(str(path))
    try:
        with Image.open(path) as image:
            image.load()
            _turn_upright(image, name)
            return _to_rgb(image, name)
    except MediaError:
        raise
    except UnidentifiedImageError as error:
        raise MediaError(
            f"The file {name} is not a picture that Pillow can read. Check what it holds, or save it as PNG or JPEG."
        ) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise MediaError(f"The picture {name} is too large ({error}). Scale it down first.") from error
    except _DAMAGE as error:
        reason = " ".join(str(error).split())
        raise MediaError(f"The picture {name} cannot be decoded ({reason}). Fetch or save it again.") from error


def regular_file(path: str | Path, kind: str) -> Path:
    """The path, once it is known to be a file that can be opened and is not empty; `kind` names it in the error.

    Raises:
        MediaError: it is missing, may not be read, is no regular file (a directory, a pipe), or has 0 bytes.
    """
    path = Path(path)
    name = repr(str(path))
    try:
        status = path.stat()
        if stat.S_ISREG(status.st_mode):  # opening a pipe would wait for its other end
            path.open("rb").close()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise MediaError(f"The {kind} {name} cannot be opened ({reason}). Check the path.") from error
    if not stat.S_ISREG(status.st_mode):
        what = "a directory" if stat.S_ISDIR(status.st_mode) else "no regular file"
        raise MediaError(f"The path {name} is {what}, not a {kind}. Give the path of one {kind} file.")
    if status.st_size == 0:
        raise MediaError(f"The {kind} {name} is empty (0 bytes). Fetch or save it again.")
    return path


def _turn_upright(image: Image.Image, name: str) -> None:
    """Apply the EXIF orientation in place; EXIF too broken to tell it leaves the picture as it is."""
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except _DAMAGE as error:
        logger.warning("The EXIF data of %s is damaged (%s): its orientation may be lost.", name, error)


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    """Convert any mode to RGB; Pillow itself clips I and F at 255, which turns most such pictures white."""
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image.convert("I"))
        low, high = values.min(), values.max()
        if low < 0 or high > 65535:
            raise MediaError(f"The picture {name} holds values {low}..{high}, not 0..65535. Save it with 8 or 16 bits.")
        image = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    elif image.mode == "F":
        raise MediaError(f"The picture {name} holds floats, which have no fixed range. Save it with 8 or 16 bits.")
    image.info.pop("transparency", None)  # unused in RGB, and Pillow warns when a palette carries it
    return image.convert("RGB")
