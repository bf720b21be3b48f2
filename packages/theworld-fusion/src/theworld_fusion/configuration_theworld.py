"""Configuration: Gemma 3's, plus the world encoder and how its features enter the sequence."""

from dataclasses import fields
from difflib import get_close_matches
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import Gemma3Config, PreTrainedConfig

from theworld_encoders.registry import encoder_class
from theworld_fusion.remote_code import saved_with_shim
from theworld_fusion.slots import grid_side
from theworld_tokens import EOW_TOKEN_ID, SOW_TOKEN_ID, WORLD_SOFT_TOKEN_ID

CHOICES = {
    "world_fusion": ("sequence", "gated", "none"),
    "world_placement": ("first", "beside_image"),
    "world_attention": ("bidirectional", "causal"),
    "world_projector": ("mlp", "linear"),
}
"""The values that each enumerated field takes; the first is the default."""


def unknown_field(name: str) -> ValueError:
    """The error for a name that is no field of ``TheWorldConfig``; it has the nearest one."""
    nearest = get_close_matches(name, [field.name for field in fields(TheWorldConfig)], n=1)
    hint = f"Did you mean {nearest[0]}?" if nearest else "See TheWorldConfig for the known ones."
    return ValueError(f"TheWorldConfig has no field {name!r}. {hint}")


@strict
class WorldEncoderConfig(PreTrainedConfig):
    """Which world encoder, and that encoder's own architecture.

    Args:
        encoder: its registry name, e.g. ``cosmos-predict2-vae``.
        encoder_config: the publisher's ``config.json``; empty means the encoder's published defaults.
        frame_size: height and width of its input in pixels; ``None`` means the published size.
    """

    model_type = "theworld_encoder"
    base_config_key = "world_config"

    encoder: str = "cosmos-predict2-vae"
    encoder_config: dict[str, Any] | None = None
    frame_size: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        self.encoder_config = dict(self.encoder_config or {})
        if self.frame_size is None:
            self.frame_size = encoder_class(self.encoder).published.frame_size
        super().__post_init__(**kwargs)


@saved_with_shim(
    AutoConfig="TheWorldConfig",
    AutoModel="TheWorldModel",
    AutoModelForImageTextToText="TheWorldForConditionalGeneration",
    AutoModelForMultimodalLM="TheWorldForConditionalGeneration",
    AutoModelForCausalLM="TheWorldForConditionalGeneration",
)
@strict
class TheWorldConfig(Gemma3Config):
    """A Gemma 3 configuration with a world branch. Every size comes from the two parts' own configurations.

    Args:
        world_config: the world encoder (``WorldEncoderConfig``).
        world_fusion: ``sequence`` puts world tokens into the sequence; ``gated`` adds them to the image tokens, on the
            image tokens' own grid; ``none`` is the base VLM.
        world_tokens_per_item: slots of one image or clip, a square number (see ``theworld_fusion.slots``).
        world_patch: each slot sees ``world_patch`` x ``world_patch`` latents (space to depth).
        world_placement: ``first`` puts all spans right after BOS; ``beside_image`` each before its image.
        world_attention: whether a span's tokens see each other in both directions.
        world_projector: ``mlp`` or ``linear``.
        max_world_frames: latent frames that the temporal embedding can tell apart, predicted ones included.
        num_world_steps: future latent frames that the encoder predicts and appends; 0 is now only, which is all that an
            encoder without a predictor can give.
        world_start_token_id, world_end_token_id, world_token_id: as the tokenizer has them.
    """

    model_type = "theworld"
    sub_configs_defaults = {**Gemma3Config.sub_configs_defaults, "world_config": WorldEncoderConfig}

    world_config: PreTrainedConfig | dict[str, Any] | None = None
    world_fusion: str = "sequence"
    world_tokens_per_item: int = 784
    world_patch: int = 1
    world_placement: str = "first"
    world_attention: str = "bidirectional"
    world_projector: str = "mlp"
    max_world_frames: int = 16
    num_world_steps: int = 0
    world_start_token_id: int = SOW_TOKEN_ID
    world_end_token_id: int = EOW_TOKEN_ID
    world_token_id: int = WORLD_SOFT_TOKEN_ID

    def __post_init__(self, **kwargs: Any) -> None:
        """Raises:
        ValueError: a field's value is not one of its choices, a size is impossible, or a field is misspelt.
        """
        kwargs.pop("auto_map", None)  # an affair of the file, for those who have not imported this class
        for name in kwargs:  # transformers keeps what it does not know as an attribute: a typo would say nothing
            own = [field.name for field in fields(self) if "world" in field.name]
            if "world" in name or get_close_matches(name, own, n=1, cutoff=0.8):
                raise unknown_field(name)
        for field, choices in CHOICES.items():
            if (value := getattr(self, field)) not in choices:
                raise ValueError(f"{field} is {value!r}. Use one of: {', '.join(choices)}.")
        for field in ("world_patch", "max_world_frames"):
            if (value := getattr(self, field)) < 1:
                raise ValueError(f"{field} is {value}. Use at least 1.")
        grid_side(self.world_tokens_per_item, 1)
        super().__post_init__(**kwargs)
        self._check_future()

    def _check_future(self) -> None:
        """The encoder's own configuration says how many frames it predicts; here is where that is decided."""
        steps = self.num_world_steps
        world: Any = self.world_config  # a WorldEncoderConfig by now
        if not 0 <= steps < self.max_world_frames:
            raise ValueError(
                f"num_world_steps is {steps}, and max_world_frames {self.max_world_frames} counts them and one frame "
                f"that is seen. Use 0 to {self.max_world_frames - 1}, or raise max_world_frames."
            )
        if steps and not encoder_class(world.encoder).published.predicts_future:
            raise ValueError(f"num_world_steps is {steps}, but {world.encoder} predicts no future. Use 0.")
        rest = {key: value for key, value in world.encoder_config.items() if key != "num_future_frames"}
        world.encoder_config = {**rest, "num_future_frames": steps} if steps else rest

    @property
    def world_token_ids(self) -> list[int]:
        """The three ids that stand for world features: start, end and placeholder."""
        return [self.world_start_token_id, self.world_end_token_id, self.world_token_id]
