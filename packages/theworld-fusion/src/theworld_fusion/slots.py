"""How many world tokens an item gets: one rule for the processor, which writes them, and the projector, which fills."""

from math import isqrt


def grid_side(budget: int, frames: int) -> int:
    """Side ``g`` of the square grid that each of ``frames`` latent frames gets out of ``budget`` slots per item.

    The largest of G, G // 2 and G // 4 with ``frames * g * g <= budget``, where ``budget`` is ``G * G``: for 784 slots
    one frame has 28 x 28, up to four have 14 x 14, up to sixteen have 7 x 7.

    Raises:
        ValueError: the budget is no square number, or too small for so many frames.
    """
    side = isqrt(max(budget, 0))
    if side * side != budget or side < 1:
        raise ValueError(f"world_tokens_per_item is {budget}. Use a square number, such as 784, 256, 196 or 64.")
    for divisor in (1, 2, 4):
        candidate = side // divisor
        if candidate >= 1 and frames * candidate * candidate <= budget:
            return candidate
    raise ValueError(
        f"{frames} latent frames do not fit into {budget} world tokens. "
        f"Give at most {budget // max(1, side // 4) ** 2} latent frames, or raise world_tokens_per_item."
    )


def num_slots(budget: int, frames: int) -> int:
    """World tokens of one item, ``frames * g * g``."""
    return frames * grid_side(budget, frames) ** 2
