"""Whether bytes off the internet are a picture, found out within bounded memory."""

import re
import struct
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

from theworld_train.data.failure import Failure, one_line

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "WEBP")
"""Pillow's readers that may see the bytes; others run programs (EPS) or are seldom tried on hostile files. JPEG's also
reads MPO, several JPEGs in a file."""

PIXEL_LIMIT = 178_956_970
"""Pillow itself opens no picture above this many pixels."""

_OTHERS = {
    "TIFF": re.compile(rb"II\*\x00|MM\x00\*"),
    "ICO": re.compile(rb"\x00\x00\x01\x00"),
    "PSD": re.compile(rb"8BPS"),
    "HEIC": re.compile(rb"....ftyp(?:hei|hev|mif1|msf1)", re.DOTALL),
    "JPEG 2000": re.compile(rb"\x00\x00\x00\x0cjP  |\xff\x4f\xff\x51"),
    "JPEG XL": re.compile(rb"\xff\x0a|\x00\x00\x00\x0cJXL "),
    "EPS": re.compile(rb"%!PS"),
    "PDF": re.compile(rb"%PDF"),
}
"""How files of other formats begin."""
_HEAD = 2048
_MAX_SCANS = 100
"""Of a JPEG; progressive ones have about ten. Each costs the time of all pixels, and can be a few bytes long."""

# What Pillow's readers raise on damaged files.
_DAMAGE = (OSError, ValueError, SyntaxError, RuntimeError, TypeError, LookupError, ArithmeticError, struct.error)


def check_picture(file: BinaryIO, max_pixels: int) -> str:
    """Decode the first frame of a picture, once its header says that this needs no more than ``max_pixels``.

    Returns:
        The format, as Pillow calls it: what the bytes are, whatever they were called.

    Raises:
        Failure: ``unsupported-format``, ``not-an-image``, ``too-many-pixels`` or ``unreadable-image``.
    """
    head = file.read(_HEAD)
    if head.startswith(b"\xff\xd8") and (scans := _scans(file)) > _MAX_SCANS:
        raise Failure("unreadable-image", f"a JPEG of {scans} scans, over {_MAX_SCANS}")
    file.seek(0)
    try:
        with Image.open(file, formats=FORMATS) as picture:
            pixels = picture.width * picture.height
            if pixels > max_pixels:
                raise Failure("too-many-pixels", f"{picture.width} x {picture.height} pixels, over {max_pixels:,}")
            picture.load()
            return str(picture.format)
    except UnidentifiedImageError:
        raise _no_picture(head) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise Failure("too-many-pixels", one_line(error)) from None
    except (*_DAMAGE, MemoryError) as error:
        raise Failure("unreadable-image", one_line(error)) from None


def _scans(file: BinaryIO) -> int:
    """How often a JPEG starts a scan; those of an embedded preview count, too."""
    file.seek(0)
    scans, last = 0, b""
    while chunk := file.read(1 << 20):
        scans += (last + chunk).count(b"\xff\xda")
        last = chunk[-1:]
    return scans


def _no_picture(head: bytes) -> Failure:
    known = next((name for name, start in _OTHERS.items() if start.match(head)), None)
    text = head.lower()
    if b"<svg" in text and b"<html" not in text and text.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"<"):
        known = "SVG"
    if known is not None:
        return Failure("unsupported-format", known)
    return Failure("not-an-image", f"the file begins with {head[:16]!r}" if head else "the file is empty")
