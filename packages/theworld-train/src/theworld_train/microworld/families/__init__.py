"""Every family of the benchmark: what makes its groups, one file for each kind of scene."""

from theworld_train.microworld.families import bounce, container, flight, impossible, pendulum, screen, slope, tower
from theworld_train.microworld.setting import Maker

MAKERS: dict[str, Maker] = {
    **flight.MAKERS,
    **bounce.MAKERS,
    **screen.MAKERS,
    **pendulum.MAKERS,
    **slope.MAKERS,
    **tower.MAKERS,
    **container.MAKERS,
    **impossible.MAKERS,
}
"""By full name: the question family, a slash, the scene family."""
