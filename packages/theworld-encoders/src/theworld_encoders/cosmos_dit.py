"""Cosmos-Predict2's diffusion transformer as a feature encoder."""

from typing import Any

from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor

from theworld_encoders.cosmos_transformer import ARCHITECTURE, CLASS_NAME, FPS, build_cosmos, cosmos_inputs
from theworld_encoders.dit import DiffusionEncoder
from theworld_encoders.spec import EncoderSpec


class CosmosPredict2Dit(DiffusionEncoder):
    """Hidden states of block 18 of 28, 2,048 wide, at 1/16 of the side and 1/4 of the frame rate.

    ``condition_frames``, a setting of its own, is how many latent frames are shown clean and marked as given, as when
    it predicts a clip's continuation; those after them, by default all, are at ``noise_level``.
    """

    published = EncoderSpec(
        name="cosmos-predict2-dit",
        kind="world",
        width=2048,
        frame_size=448,
        spatial_stride=16,
        temporal_stride=4,
        repo_id="nvidia/Cosmos-Predict2-2B-Video2World",
        revision="f50c09f5d8ab133a90cac3f4886a6471e9ba3f18",
        subfolder="transformer",
        licence="NVIDIA Open Model License",
        gated=True,
    )
    class_name = CLASS_NAME
    defaults = {"num_layers": 28, "in_channels": 16}
    mask_channels = 1  # where frames are given
    settings = {"condition_frames": 0}
    architecture = ARCHITECTURE

    @classmethod
    def build(cls, architecture: dict[str, Any], block: int) -> Any:
        transformer = build_cosmos(architecture, block)
        del transformer.norm_out, transformer.proj_out  # the head is not used
        return transformer

    @classmethod
    def text_width(cls, transformer: Any) -> int:
        return transformer.config.text_embed_dim

    def hidden(self, latents: Float[Tensor, "m z t y x"], noise: Float[Tensor, "z t y x"]) -> Float[Tensor, "m n c"]:
        level, given, transformer = self.config["noise_level"], self.config["condition_frames"], self.transformer
        noisy = (1 - level) * latents + level * noise
        inputs, timestep = (
            part.to(transformer.dtype) for part in cosmos_inputs(latents[:, :, :given], noisy[:, :, given:], level)
        )
        rotary = transformer.rope(inputs, fps=FPS)
        learned = transformer.learnable_pos_embed(inputs) if transformer.learnable_pos_embed is not None else None
        states = transformer.patch_embed(inputs)
        frames, places = states.shape[1], states.shape[2] * states.shape[3]
        modulation, embedded = (
            repeat(part, "(m t) c -> m (t n) c", t=frames, n=places)
            for part in transformer.time_embed(states, timestep.flatten())
        )
        states, prompt = rearrange(states, "m t r s c -> m (t r s) c"), self.prompt(latents.shape[0])
        for block in transformer.transformer_blocks:
            states = block(states, prompt, embedded, modulation, rotary, learned)
        return states
