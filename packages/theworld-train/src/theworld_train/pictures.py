"""Pictures for reports that need no other file: film strips and plots, inside the page."""

import base64
import io
from collections.abc import Sequence

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image


def plot_png(figure: Figure) -> bytes:
    """A plot, as PNG."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()


def strip_png(frames: Sequence[Image.Image], side: int = 96, gap: int = 4) -> bytes:
    """The frames of a clip side by side, as PNG; the last one, which is all that "off" sees, is set apart."""
    width = len(frames) * (side + gap) + 3 * gap
    strip = Image.new("RGB", (width, side), "white")
    for index, frame in enumerate(frames):
        extra = 3 * gap if index == len(frames) - 1 else 0
        strip.paste(frame.resize((side, side), Image.Resampling.NEAREST), (index * (side + gap) + extra, 0))
    buffer = io.BytesIO()
    strip.save(buffer, format="PNG")
    return buffer.getvalue()


def data_url(png: bytes) -> str:
    """The picture as an address that holds it."""
    return "data:image/png;base64," + base64.b64encode(png).decode()
