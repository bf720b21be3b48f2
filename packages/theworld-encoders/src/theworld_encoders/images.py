"""Reads a picture file into the RGB image that every encoder starts from, or says in one line why it cannot."""

import logging
import stat
import struct
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from theworld_encoders.errors import MediaError

logger = logging.getLogger(__name__)

# What Pillow's readers raise on damaged files, found by feeding them some 30,000.
_DAMAGE = (OSError, ValueError, SyntaxError, RuntimeError, TypeError, LookupError, ArithmeticError, struct.error)


def load_image(path: str | Path) -> Image.Image:
    """Read a picture file, fully decoded: its first frame, as ``to_rgb`` makes it.

    Raises:
        MediaError: there is no such file, or it holds no picture, a damaged one, one above Pillow's limit of pixels,
            or one that ``to_rgb`` refuses.
    """
    return _decode(regular_file(path, "picture"), repr(str(path)))


def decode_image(content: bytes, name: str = "given") -> Image.Image:
    """The picture in the bytes of a file, as ``load_image`` reads it; ``name`` is what errors call it.

    Raises:
        MediaError: it cannot be used, as with ``load_image``.
    """
    return _decode(BytesIO(content), name)


def _decode(file: Path | BytesIO, name: str) -> Image.Image:
    try:
        with Image.open(file) as image:
            return to_rgb(image, name)
    except MediaError:
        raise
    except UnidentifiedImageError as error:
        raise MediaError(
            f"The file {name} is not a picture that Pillow can read. Check what it holds, or save it as PNG or JPEG."
        ) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise MediaError(f"The picture {name} is too large ({error}). Scale it down first.") from error
    except _DAMAGE as error:
        raise _undecodable(name, error) from error


def to_rgb(image: Image.Image, name: str = "given") -> Image.Image:
    """A picture of any mode as every encoder takes it: upright, opaque, RGB. The one that is given stays as it was.

    EXIF orientation is applied, and is not in the result any more. Transparency lies on white, as transformers' image
    processors do it. Greyscale deeper than 8 bits (modes ``I`` and ``I;16``) is scaled from 0..65535 to 0..255, not
    clipped.

    Args:
        image: any picture of Pillow's.
        name: what errors call it.

    Raises:
        MediaError: it cannot be decoded, has no pixels, or its numbers have no fixed range (float, or integers outside
            0..65535).
    """
    if 0 in image.size:
        raise MediaError(f"The picture {name} has {image.width} x {image.height} pixels. Give at least one.")
    try:
        image.load()
        return _opaque(_eight_bit(_upright(image, name), name))
    except MediaError:
        raise
    except _DAMAGE as error:
        raise _undecodable(name, error) from error


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


def _undecodable(name: str, error: Exception) -> MediaError:
    return MediaError(f"The picture {name} cannot be decoded ({' '.join(str(error).split())}). Fetch or save it again.")


def _upright(image: Image.Image, name: str) -> Image.Image:
    """Apply the EXIF orientation; EXIF too broken to tell it leaves the picture as it is."""
    try:
        return ImageOps.exif_transpose(image)
    except _DAMAGE as error:
        logger.warning("The EXIF data of %s is damaged (%s): its orientation may be lost.", name, error)
        return image


def _eight_bit(image: Image.Image, name: str) -> Image.Image:
    """Scale deep greyscale; Pillow itself clips I and F at 255, which turns most such pictures white."""
    if image.mode == "F":
        raise MediaError(f"The picture {name} holds floats, which have no fixed range. Save it with 8 or 16 bits.")
    if image.mode != "I" and not image.mode.startswith("I;16"):
        return image
    values = np.asarray(image.convert("I"))
    low, high = values.min(), values.max()
    if low < 0 or high > 65535:
        raise MediaError(f"The picture {name} holds values {low}..{high}, not 0..65535. Save it with 8 or 16 bits.")
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))


def _opaque(image: Image.Image) -> Image.Image:
    """RGB, on white where it is transparent: the colour below full transparency is arbitrary, and mostly black."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    if image.mode == "La":  # Pillow takes it no further than to LA
        image = image.convert("LA")
    ground = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(ground, image.convert("RGBA")).convert("RGB")
