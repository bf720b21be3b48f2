"""Draws a scene of the micro-world as a picture, finely enough that motion of a fraction of a pixel shows."""

from PIL import Image, ImageDraw

from theworld_train.microworld.scene import SIDE, WALL, Body, Scene, corners, front_to_back

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (225, 40, 40),
    "green": (30, 165, 70),
    "blue": (60, 105, 245),
    "yellow": (240, 195, 20),
}

WHITE = (245, 245, 245)
GREY = (110, 110, 110)
"""Of distractors, which are no answer."""

_SUPERSAMPLING = 4
_WALL_GREY = 128


def draw(scene: Scene, *, size: int) -> Image.Image:
    """Draws the box, its walls and its objects.

    Args:
        scene: What to draw.
        size: Side of the picture in pixels.

    Returns:
        An RGB picture of `size` by `size` pixels.
    """
    side = size * _SUPERSAMPLING
    scale = side / SIDE
    image = Image.new("RGB", (side, side), ((_WALL_GREY if scene.walls else scene.background),) * 3)
    canvas = ImageDraw.Draw(image)
    if scene.walls:
        canvas.rectangle(_box(WALL, WALL, SIDE - WALL, SIDE - WALL, scale), fill=(scene.background,) * 3)
    for part in scene.parts:
        if not part.front:
            canvas.polygon([(x * scale, y * scale) for x, y in part.points], fill=(part.grey,) * 3)
    for place in reversed(front_to_back(scene)):
        _draw_body(canvas, scene.bodies[place], scale)
    for part in scene.parts:
        if part.front:
            canvas.polygon([(x * scale, y * scale) for x, y in part.points], fill=(part.grey,) * 3)
    return image.reduce(_SUPERSAMPLING)


def _draw_body(canvas: ImageDraw.ImageDraw, body: Body, scale: float) -> None:
    colour = COLOURS.get(body.colour, GREY if body.role == "distractor" else WHITE)
    polygon = corners(body)
    if polygon:
        canvas.polygon([((body.x + x) * scale, (body.y + y) * scale) for x, y in polygon], fill=colour)
    else:
        r = body.radius
        canvas.ellipse(_box(body.x - r, body.y - r, body.x + r, body.y + r, scale), fill=colour)


def _box(left: float, top: float, right: float, bottom: float, scale: float) -> tuple[float, float, float, float]:
    return left * scale, top * scale, right * scale - 1, bottom * scale - 1  # Pillow includes the last pixel
