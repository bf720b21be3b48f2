"""A micro-world: short clips of moving objects, with questions that only the motion answers and some that a frame does.

The motion comes from a real 2-D physics engine (`scene`), the pictures from Pillow (`draw`). `questions` holds what is
asked, `clips` makes balanced groups of clips.
"""

from theworld_train.microworld.clips import Clip, generate
from theworld_train.microworld.questions import CHOICES, FRAME_FAMILIES, MOTION_FAMILIES, Question

__all__ = ["CHOICES", "FRAME_FAMILIES", "MOTION_FAMILIES", "Clip", "Question", "generate"]
