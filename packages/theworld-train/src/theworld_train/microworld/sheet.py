"""A contact sheet: the first group of each family as film strips, to look at."""

from collections.abc import Sequence

from PIL import Image, ImageDraw

from theworld_train.microworld.draw import draw
from theworld_train.microworld.stage import families, stage

_GAP, _LINE = 2, 12


def sheet(names: Sequence[str] = (), *, split: str, level: str, seed: int = 0, size: int = 48) -> Image.Image:
    """One strip of nine frames for each clip of the first group of each family, under the question and the answers.

    Args:
        names: families, as ``stage.families`` takes them.
        size: side of a frame in pixels.

    Raises:
        ValueError: there is no such split, family or level.
    """
    groups = [stage(split, family, 0, level=level, seed=seed) for family in families(tuple(names))]
    strip = 9 * (size + _GAP)
    columns = max(len(group) for group in groups)
    image = Image.new("RGB", (columns * (strip + 4 * _GAP), len(groups) * (size + 2 * _LINE + 2 * _GAP)), "white")
    canvas = ImageDraw.Draw(image)
    for row, group in enumerate(groups):
        top = row * (size + 2 * _LINE + 2 * _GAP)
        canvas.text((_GAP, top), f"{group[0].family}: {group[0].question.text}", fill="black")
        for column, clip in enumerate(group):
            left = column * (strip + 4 * _GAP)
            canvas.text((left + _GAP, top + _LINE), clip.question.answer, fill="black")
            for number, scene in enumerate(clip.scenes):
                image.paste(draw(scene, size=size), (left + number * (size + _GAP), top + 2 * _LINE))
    return image
