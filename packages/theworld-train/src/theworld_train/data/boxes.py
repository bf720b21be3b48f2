"""Boxes drawn on pictures, each with the name of its region."""

from collections.abc import Mapping, Sequence

from PIL import Image, ImageColor, ImageDraw, ImageFont

_COLOURS = ("#e6194b", "#ffe119", "#4363d8", "#3cb44b", "#f58231", "#911eb4", "#46f0f0", "#ffffff")

Box = Sequence[float]
"""Left, top, right, bottom, in pixels; right and bottom are outside."""


def draw_boxes(picture: Image.Image, boxes: Mapping[str, Box]) -> Image.Image:
    """A copy of the picture with a frame around every box, and its name on a ground of the frame's colour.

    Raises:
        ValueError: a box is outside the picture, or upside down.
    """
    drawn = picture.convert("RGB")
    pen = ImageDraw.Draw(drawn)
    thickness = max(1, round(min(picture.size) / 200))
    font = ImageFont.load_default(max(10, round(min(picture.size) / 30)))
    for number, (name, box) in enumerate(boxes.items()):
        left, top, right, bottom = clamp(box, picture.size)
        colour = _COLOURS[number % len(_COLOURS)]
        pen.rectangle((left, top, right - 1, bottom - 1), outline=colour, width=thickness)
        x1, y1, x2, y2 = pen.textbbox((0, 0), name, font=font)
        width, height = round(x2 - x1) + 4, round(y2 - y1) + 4
        x = max(0, min(left, picture.width - width))
        y = top - height if top >= height else min(top + thickness, max(0, picture.height - height))
        pen.rectangle((x, y, x + width - 1, y + height - 1), fill=colour)
        pen.text((x + 2 - x1, y + 2 - y1), name, fill=text_colour(colour), font=font)
    return drawn


def clamp(box: Box, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The part of the box that is in a picture of ``size`` (width, height), in whole pixels, at least one.

    Raises:
        ValueError: no part is.
    """
    if len(box) != 4 or not (box[0] <= box[2] and box[1] <= box[3]):
        raise ValueError(f"the box {list(box)} is not left, top, right, bottom.")
    left, top, right, bottom = box
    if left >= size[0] or top >= size[1] or right < 0 or bottom < 0:
        raise ValueError(f"the box {list(box)} is outside its picture of {size[0]} x {size[1]} pixels.")
    x, y = max(0, int(left)), max(0, int(top))
    return x, y, max(x + 1, min(size[0], round(right))), max(y + 1, min(size[1], round(bottom)))


def text_colour(ground: str) -> str:
    """Black or white, whichever stands out more by the contrast ratio of WCAG 2.2."""
    linear = [
        (channel / 255 / 12.92) if channel <= 10 else ((channel / 255 + 0.055) / 1.055) ** 2.4
        for channel in ImageColor.getrgb(ground)[:3]
    ]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "black" if (luminance + 0.05) ** 2 > 1.05 * 0.05 else "white"
