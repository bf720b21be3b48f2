"""The table of shapes on the page on the architecture, from two runs: a toy's, and one of the published sizes.

The second is a training step of a shipped recipe on tensors without values, so it needs neither weights nor memory.
"""

import tempfile
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.modules.module import register_module_forward_hook

from theworld_encoders import Encoder
from theworld_fusion.projector import WorldProjector
from theworld_fusion.testing import chat, encode, random_clip, tiny_model
from theworld_train.estimate import Geometry, count_step
from theworld_train.recipe_file import load_recipe

RECIPE = "align-projector"
FRAMES = 13
STEPS = {
    "pixels of the clip": ("m t 3 h w", "`pixel_values_world`, every frame, for the world encoder"),
    "world features": ("m t' r s c", "latent frames, each a grid of places, from the frozen world encoder"),
    "world tokens": ("m k d", "resampled to the slots and projected to the language model's width"),
    "picture": ("m 3 H W", "`pixel_values`, the clip's last frame, for Gemma's own tower"),
    "patches": ("m p v", "of the SigLIP tower"),
    "image tokens": ("m i d", "pooled and projected as Gemma 3 does"),
    "embeddings": ("b l d", "of the row of ids; world and image tokens stand where their placeholders were"),
    "hidden states": ("b l d", "after the language model's last layer"),
    "logits": ("b l v", "after the head; in training, of the labelled places alone"),
}


def table() -> str:
    """Markdown."""
    published = record(_training_step)
    lines = [
        f"| step | shape | toy, {FRAMES - 4} frames | published, {FRAMES} frames | what it is |",
        "|---|---|---|---|---|",
    ]
    toy = record(_toy)
    for step, (letters, meaning) in STEPS.items():
        shapes = (" x ".join(map(str, shape)) for shape in (toy[step], published[step]))
        lines.append(f"| {step} | `{letters}` | {' | '.join(shapes)} | {meaning} |")
    return "\n".join(lines) + "\n"


def record(run: Callable[[], None]) -> dict[str, tuple[int, ...]]:
    """The shape of each step, as it first comes by in the forward passes of ``run``."""
    found = dict[str, tuple[int, ...]]()

    def see(module: Any, inputs: Any, output: Any) -> None:
        name = type(module).__name__
        seen: dict[str, Any] = {}
        if isinstance(module, Encoder):
            seen = {"pixels of the clip": inputs[0], "world features": output}
        elif isinstance(module, WorldProjector):
            seen = {"world tokens": output}
        elif name == "SiglipVisionEmbeddings":
            seen = {"picture": inputs[0], "patches": output}
        elif name == "ImageProjector":
            seen = {"image tokens": output}
        elif name == "Gemma3DecoderLayer":
            seen = {"embeddings": inputs[0]}
        elif name == "Gemma3TextModel":
            seen = {"hidden states": output.last_hidden_state}
        elif name == "Linear" and "hidden states" in found:  # the head: what comes after the language model
            seen = {"logits": output}
        for step, tensor in seen.items():
            found.setdefault(step, tuple(tensor.shape))

    hook = register_module_forward_hook(see)
    try:
        run()
    finally:
        hook.remove()
    return found


def _toy() -> None:
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        model, processor = tiny_model(folder)
        model(**encode(processor, [chat(random_clip(0, FRAMES - 4))]))


def _training_step() -> None:
    count_step(load_recipe(RECIPE, ["batch.size=1"]), geometry=Geometry(frames=FRAMES))
