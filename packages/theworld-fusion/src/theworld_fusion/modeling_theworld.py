# pyright: reportIncompatibleVariableOverride=false, reportOptionalIterable=false, reportIncompatibleMethodOverride=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false, reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false
# transformers annotates its hooks and sub-configurations more loosely, or otherwise, than it calls them.
"""Gemma 3 with world tokens: the world branch only overwrites embeddings at placeholders; the rest is Gemma 3.

With no world input, ``forward`` is Gemma 3's own, so world off equals the base VLM bit for bit.
"""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, Gemma3ForConditionalGeneration, Gemma3Model, Gemma3PreTrainedModel
from transformers.cache_utils import Cache
from transformers.generation import (
    GenerationConfig,
    GenerationMixin,
    LogitsProcessorList,
    SuppressTokensLogitsProcessor,
)
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.gemma3.modeling_gemma3 import (
    Gemma3CausalLMOutputWithPast,
    Gemma3ModelOutputWithPast,
    Gemma3MultiModalProjector,
)
from transformers.processing_utils import Unpack
from transformers.utils.generic import TransformersKwargs

from theworld_encoders import Encoder
from theworld_encoders.encoder import by_shape
from theworld_encoders.registry import encoder_class
from theworld_fusion.configuration_theworld import TheWorldConfig
from theworld_fusion.projector import WorldProjector
from theworld_fusion.scatter import scatter_features

WorldInput = Tensor | Sequence[Tensor]
"""One tensor where all items have one shape, else one tensor per item."""


class TheWorldPreTrainedModel(Gemma3PreTrainedModel):
    """What both classes below share: the configuration's type and how the world modules start."""

    config: TheWorldConfig
    config_class = TheWorldConfig
    base_model_prefix = "model"
    input_modalities = ("image", "text")

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, Encoder | WorldProjector):
            module.reset_parameters()
        elif not isinstance(module, nn.RMSNorm):  # ours; Gemma's rule would zero it by its class name
            super()._init_weights(module)

    def _adjust_missing_and_unexpected_keys(self, loading_info: Any) -> None:
        super()._adjust_missing_and_unexpected_keys(loading_info)
        # from_pretrained makes every parameter anew, trainable; encoders stay frozen unless asked.
        for module in self.modules():
            if isinstance(module, Encoder):
                module.freeze()


class TheWorldModel(TheWorldPreTrainedModel, Gemma3Model):
    """SigLIP tower, world encoder and language model, without the head."""

    def __init__(self, config: TheWorldConfig) -> None:
        Gemma3PreTrainedModel.__init__(self, config)
        self.vision_tower = AutoModel.from_config(config.vision_config)
        self.multi_modal_projector = Gemma3MultiModalProjector(config)
        self.vocab_size = config.text_config.vocab_size
        self.language_model = AutoModel.from_config(config.text_config)
        if config.world_fusion != "none":
            world = config.world_config
            self.world_encoder = encoder_class(world.encoder).from_config(
                world.encoder_config, frame_size=world.frame_size
            )
            self.world_projector = WorldProjector(config, self.world_encoder.spec.width)
        self.post_init()

    def get_world_features(
        self, pixel_values_world: WorldInput | None = None, world_features: WorldInput | None = None
    ) -> BaseModelOutputWithPooling:
        """World tokens of every item, from pixels or from the encoder's precomputed output.

        Args:
            pixel_values_world: ``[m, t, 3, h, w]`` in the encoder's range, or a list of ``[t, 3, h, w]``.
            world_features: what the encoder gives, ``[m, t', r, s, c]`` or a list of ``[t', r, s, c]``.

        Returns:
            ``last_hidden_state``: the features, a list of ``[t', r, s, c]``; ``pooler_output``: the tokens, a list of
            ``[k, d]``.

        Raises:
            ValueError: both or neither are given, or the model has no world branch.
        """
        if self.config.world_fusion == "none":
            raise ValueError("the model has world_fusion='none'. Load it with 'sequence', or pass no world input.")
        if (pixel_values_world is None) == (world_features is None):
            raise ValueError("pass exactly one of pixel_values_world and world_features.")
        if pixel_values_world is not None:
            like = next(self.world_encoder.parameters())
            items = [item.to(like.device, like.dtype) for item in pixel_values_world]
            world_features = self.world_encoder.encode_items(items)
        like = self.world_projector.boundaries
        features = [item.to(like.device, like.dtype) for item in world_features]
        return BaseModelOutputWithPooling(
            last_hidden_state=features, pooler_output=by_shape(self.world_projector, features)
        )

    def _embed(self, input_ids: Tensor, image: Any, world: Any) -> Tensor:
        """Token embeddings with image and world features written over their placeholders."""
        embeds = self.get_input_embeddings()(input_ids)
        if image is not None:
            features = image.pooler_output.to(embeds.device, embeds.dtype)
            mask = self.get_placeholder_mask(input_ids, inputs_embeds=embeds, image_features=features)
            embeds = embeds.masked_scatter(mask, features)
        tokens = torch.cat([item.to(embeds.device) for item in world.pooler_output])
        embeds = scatter_features(embeds, input_ids == self.config.world_token_id, tokens)
        boundaries = self.world_projector.boundaries.to(embeds.device, embeds.dtype)
        for token_id, vector in zip(
            (self.config.world_start_token_id, self.config.world_end_token_id), boundaries, strict=True
        ):
            embeds = torch.where((input_ids == token_id).unsqueeze(-1), vector, embeds)
        return embeds

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        token_type_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None = None,
        pixel_values_world: WorldInput | None = None,
        world_features: WorldInput | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | Gemma3ModelOutputWithPast:
        """Gemma 3's forward; see ``get_world_features`` for the two world inputs.

        Raises:
            ValueError: world input comes with ``inputs_embeds`` instead of ``input_ids``, or twice.
        """
        encoded = dict(mm_encoder_outputs or {})
        if pixel_values_world is not None or world_features is not None:
            if encoded.get("world") is not None:
                raise ValueError("world input is given twice. Pass pixels or features or mm_encoder_outputs, not two.")
            encoded["world"] = self.get_world_features(pixel_values_world, world_features)
        world = encoded.pop("world", None)
        image = None
        if world is not None:
            if input_ids is None:
                raise ValueError(
                    "world features need input_ids to find their slots. Pass input_ids, not inputs_embeds."
                )
            image = encoded.get("image")
            if pixel_values is not None:
                image = self.get_image_features(pixel_values, return_dict=True)
            inputs_embeds, input_ids = self._embed(input_ids, image, world), None
            pixel_values, encoded = None, {}
        outputs = super().forward(
            input_ids=input_ids,
            pixel_values=pixel_values,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            token_type_ids=token_type_ids,
            inputs_embeds=inputs_embeds,
            labels=labels,
            use_cache=use_cache,
            mm_encoder_outputs=encoded or None,
            **kwargs,
        )
        if image is not None and isinstance(outputs, Gemma3ModelOutputWithPast):
            outputs.image_hidden_states = image.pooler_output
        return outputs


class TheWorldForConditionalGeneration(TheWorldPreTrainedModel, Gemma3ForConditionalGeneration, GenerationMixin):
    """The model that answers: ``generate()`` with pictures and clips, world features computed once per prompt."""

    def __init__(self, config: TheWorldConfig) -> None:
        Gemma3PreTrainedModel.__init__(self, config)
        self.model = TheWorldModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    def get_world_features(
        self, pixel_values_world: WorldInput | None = None, world_features: WorldInput | None = None
    ) -> BaseModelOutputWithPooling:
        """See ``TheWorldModel.get_world_features``."""
        return self.model.get_world_features(pixel_values_world, world_features)

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        token_type_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None = None,
        pixel_values_world: WorldInput | None = None,
        world_features: WorldInput | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | Gemma3CausalLMOutputWithPast:
        """Gemma 3's forward; the world inputs are named here because ``generate`` and ``Trainer`` look for them."""
        return super().forward(
            input_ids=input_ids,
            pixel_values=pixel_values,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            token_type_ids=token_type_ids,
            inputs_embeds=inputs_embeds,
            labels=labels,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
            mm_encoder_outputs=mm_encoder_outputs,
            pixel_values_world=pixel_values_world,
            world_features=world_features,
            **kwargs,
        )

    def prepare_inputs_for_generation(  # the name ``kwargs`` matters: transformers inspects it
        self,
        input_ids: torch.LongTensor,
        use_cache: bool = True,
        is_first_iteration: bool = False,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Gemma 3's, without world pixels in decode steps: their features are in the cache."""
        if use_cache and not is_first_iteration:
            kwargs["pixel_values_world"] = kwargs["world_features"] = None
        return super().prepare_inputs_for_generation(
            input_ids,
            use_cache=use_cache,
            is_first_iteration=is_first_iteration,
            inputs_embeds=inputs_embeds,
            **kwargs,
        )

    def _prepare_multimodal_encoder_kwargs_for_generation(self, model_kwargs: dict[str, Any]) -> Any:
        model_kwargs = super()._prepare_multimodal_encoder_kwargs_for_generation(model_kwargs)
        pixels, features = model_kwargs.pop("pixel_values_world", None), model_kwargs.pop("world_features", None)
        if pixels is not None or features is not None:
            model_kwargs["mm_encoder_outputs"]["world"] = self.get_world_features(pixels, features)
        return model_kwargs

    def _get_logits_processor(
        self, generation_config: GenerationConfig, *args: Any, **kwargs: Any
    ) -> LogitsProcessorList:
        """With world tokens in the prompt, none is ever generated; without them, decoding is the base VLM's."""
        processors = super()._get_logits_processor(generation_config, *args, **kwargs)
        ids, encoded = kwargs.get("encoder_input_ids"), (kwargs.get("model_kwargs") or {}).get("mm_encoder_outputs")
        in_prompt = ids is not None and not ids.is_floating_point() and (ids == self.config.world_token_id).any()
        if in_prompt or (encoded or {}).get("world") is not None:
            config = self.config
            world = [config.world_start_token_id, config.world_end_token_id, config.world_token_id]
            processors.insert(0, SuppressTokensLogitsProcessor(world, device=self.device))
        return processors

    def _expand_multimodal_outputs(
        self, input_ids: Tensor, mm_encoder_output: dict, expand_size: int = 1, inputs_embeds: Tensor | None = None
    ) -> dict[str, Any]:
        """For beams and several return sequences: each row's world items are repeated as a group, ``A B A B``."""
        expanded = super()._expand_multimodal_outputs(input_ids, mm_encoder_output, expand_size, inputs_embeds)
        if (world := expanded.get("world")) is not None:
            ends = list(accumulate(len(tokens) for tokens in world.pooler_output))
            row_ends = list(accumulate((input_ids == self.config.world_token_id).sum(-1).tolist()))
            bounds = [0, *(ends.index(end) + 1 if end in ends else 0 for end in row_ends)]
            bounds = list(accumulate(bounds, max))  # a row without items ends where the row before it did
            expanded["world"] = BaseModelOutputWithPooling(
                pooler_output=[
                    tokens
                    for start, end in pairwise(bounds)
                    for tokens in list(world.pooler_output[start:end]) * expand_size
                ]
            )
        return expanded
