# pyright: reportOptionalCall=false, reportIncompatibleVariableOverride=false, reportOptionalIterable=false, reportIncompatibleMethodOverride=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false, reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false
# transformers annotates its hooks and sub-configurations more loosely, or otherwise, than it calls them.
"""Gemma 3 with world tokens: the world branch only overwrites embeddings at placeholders; the rest is Gemma 3.

With no world input, ``forward`` does what Gemma 3's does, so world off equals the base VLM: its logits bit for bit, and
the loss in training, which is computed without them, up to rounding.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, Gemma3ForConditionalGeneration, Gemma3Model, Gemma3PreTrainedModel
from transformers.cache_utils import Cache
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.modeling_utils import PreTrainedModel, slice_logits_to_keep
from transformers.models.gemma3.modeling_gemma3 import (
    Gemma3CausalLMOutputWithPast,
    Gemma3ModelOutputWithPast,
)
from transformers.processing_utils import Unpack
from transformers.utils.generic import TransformersKwargs, can_return_tuple

from theworld_encoders import Encoder
from theworld_encoders.encoder import by_shape
from theworld_encoders.registry import encoder_class
from theworld_fusion.configuration_theworld import TheWorldConfig
from theworld_fusion.gate import WorldGate
from theworld_fusion.generation import BOUNDARIES, GatedImageFeatures, WorldGeneration, has_world_input
from theworld_fusion.image_projector import ImageProjector
from theworld_fusion.last_layer import LastLayer, last_places
from theworld_fusion.loss import causal_lm_loss, supervised, supervised_loss
from theworld_fusion.names import translate_gemmas_names
from theworld_fusion.packing import packed_masks
from theworld_fusion.projector import WorldProjector
from theworld_fusion.scatter import scatter_features
from theworld_fusion.world_input import WorldInput, check_pixels, to_parameter
from theworld_tokens import IGNORE_INDEX


class TheWorldPreTrainedModel(Gemma3PreTrainedModel):
    """What both classes below share: the configuration's type and how the world modules start."""

    config: TheWorldConfig
    config_class = TheWorldConfig
    base_model_prefix = "model"
    input_modalities = ("image", "text")

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, Encoder | WorldProjector | WorldGate):
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
        self.multi_modal_projector = ImageProjector(config)
        self.vocab_size = config.text_config.vocab_size
        self.language_model = AutoModel.from_config(config.text_config)
        last = config.text_config.num_hidden_layers - 1
        self.language_model.layers[last] = LastLayer(config.text_config, last)
        if config.world_fusion != "none":
            world = config.world_config
            self.world_encoder = encoder_class(world.encoder).from_config(
                world.encoder_config, frame_size=world.frame_size
            )
            self.world_projector = WorldProjector(config, self.world_encoder.spec.width)
        if config.world_fusion == "gated":
            self.world_gate = WorldGate(config.text_config.hidden_size, config.text_config.rms_norm_eps)
        # Each of these lies on one device.
        whole = [LastLayer, *(type(part) for name, part in self.named_children() if name.startswith("world_"))]
        self._no_split_modules = {*self._no_split_modules, *(kind.__name__ for kind in whole)}
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
            ValueError: both or neither are given, an item has another shape or dtype, or the model has no world branch.
        """
        if self.config.world_fusion == "none":
            raise ValueError("the model has world_fusion='none'. Load it with 'sequence', or pass no world input.")
        if (pixel_values_world is None) == (world_features is None):
            raise ValueError("pass exactly one of pixel_values_world and world_features.")
        if pixel_values_world is not None:
            for item in pixel_values_world:
                check_pixels(item)
            # Some controls have no parameters.
            like = next(self.world_encoder.parameters(), self.world_projector.norm.weight)
            world_features = self.world_encoder.encode_items(to_parameter(like, pixel_values_world))
        features = to_parameter(self.world_projector.norm.weight, world_features)
        return BaseModelOutputWithPooling(
            last_hidden_state=features, pooler_output=by_shape(self.world_projector, features)
        )

    def with_world_features(
        self, encoded: dict[str, Any], pixel_values_world: WorldInput | None, world_features: WorldInput | None
    ) -> dict[str, Any]:
        """``mm_encoder_outputs`` plus the world's, where there is world input.

        Raises:
            ValueError: they have the world's already.
        """
        if pixel_values_world is None and world_features is None:
            return dict(encoded)
        if encoded.get("world") is not None:
            raise ValueError("world input is given twice. Pass pixels or features or mm_encoder_outputs, not two.")
        return {**encoded, "world": self.get_world_features(pixel_values_world, world_features)}

    def with_image_features(self, encoded: dict[str, Any], image_features: Tensor | None) -> dict[str, Any]:
        """``mm_encoder_outputs`` plus image tokens of ``image_features``, ``[images, tokens, c]``, where there are any.

        Raises:
            ValueError: they have the image's already.
        """
        if image_features is None:
            return encoded
        if encoded.get("image") is not None:
            raise ValueError("image input is given twice. Pass pixels or features or mm_encoder_outputs, not two.")
        weight = self.multi_modal_projector.mm_input_projection_weight
        features = image_features if weight.is_meta else image_features.to(weight.device)  # accelerate moves them there
        tokens = self.multi_modal_projector(features, pooled=True)
        return {**encoded, "image": BaseModelOutputWithPooling(pooler_output=tokens)}

    def placeholders(self, token_id: int, input_ids: Tensor | None, inputs_embeds: Tensor | None) -> Tensor:
        """Where the prompt has ``token_id``, ``[b, l]``; found by its embedding if only embeddings are given."""
        if input_ids is not None:
            return input_ids == token_id
        embedding = self.get_input_embeddings()(torch.full((), token_id, device=inputs_embeds.device))
        return (inputs_embeds == embedding).all(-1)

    def gate_image_features(self, image: Any, world: Any) -> GatedImageFeatures:
        """Image features with the world's added, for ``gated`` fusion.

        Args:
            image, world: of ``get_image_features`` and ``get_world_features``; there is one image per item.

        Raises:
            ValueError: there are no image features, or not as many as items.
        """
        images, items = 0 if image is None else len(image.pooler_output), len(world.pooler_output)
        if images != items:
            raise ValueError(
                f"gated fusion adds each item's world features to its image's, but there are {items} items for "
                f"{images} images. Build both with one processor call."
            )
        tokens = torch.stack([item.to(image.pooler_output) for item in world.pooler_output])
        return GatedImageFeatures(
            last_hidden_state=image.last_hidden_state, pooler_output=self.world_gate(image.pooler_output, tokens)
        )

    def _embed(self, input_ids: Tensor | None, inputs_embeds: Tensor | None, image: Any, world: Any) -> Tensor:
        """Token embeddings with image and world features written over their placeholders."""
        given = self.get_input_embeddings()(input_ids) if inputs_embeds is None else inputs_embeds
        embeds, config = given, self.config
        if image is not None:
            features = image.pooler_output.to(embeds.device).flatten(0, -2)
            embeds = scatter_features(embeds, self.placeholders(config.image_token_id, input_ids, given), features)
        if world is None:
            return embeds
        if len(world.pooler_output):  # a prefill's chunk may have a boundary and no soft token
            tokens = torch.cat([item.to(embeds.device) for item in world.pooler_output])
            embeds = scatter_features(embeds, self.placeholders(config.world_token_id, input_ids, given), tokens)
        boundaries = self.world_projector.boundaries().to(embeds.device, embeds.dtype)
        ends = [
            self.placeholders(token_id, input_ids, given)
            for token_id in (config.world_start_token_id, config.world_end_token_id)
        ]
        if input_ids is None:
            torch._assert_async(~(ends[0] & ends[1]).any(), "start and end of a world span look alike. Pass input_ids.")
        for places, vector in zip(ends, boundaries, strict=True):
            embeds = torch.where(places.unsqueeze(-1), vector, embeds)
        return embeds

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | dict[str, Any] | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        token_type_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None = None,
        pixel_values_world: WorldInput | None = None,
        world_features: WorldInput | None = None,
        image_features: torch.Tensor | None = None,
        visible_until: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | Gemma3ModelOutputWithPast:
        """Gemma 3's forward; see ``get_world_features`` for the two world inputs.

        Args:
            image_features: in place of ``pixel_values``, what the vision tower makes of them, pooled (see
                ``ImageProjector``), ``[images, tokens, c]``.
            visible_until: ``[b, l]``, of rows that hold several sequences: see ``packed_masks``, which makes of it,
                ``position_ids`` and ``token_type_ids`` what stands in for ``attention_mask``.
            **kwargs: among others ``hidden_to_keep``, ``[n]``, places in ``b`` times ``l``: the last hidden states of
                these alone are given, ``[n, d]`` (see ``LastLayer``).

        Raises:
            ValueError: an input is given twice or not at all, or world and image features do not belong together.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("pass exactly one of input_ids and inputs_embeds.")
        if visible_until is not None:
            text, dtype = self.config.get_text_config(), self.get_input_embeddings().weight.dtype
            masks: Any = packed_masks(text, visible_until, position_ids, token_type_ids, dtype=dtype)
            attention_mask = masks  # annotated upstream as one
        encoded = self.with_image_features(mm_encoder_outputs or {}, image_features)
        encoded = self.with_world_features(encoded, pixel_values_world, world_features)
        image, world = encoded.get("image"), encoded.get("world")
        if pixel_values is not None:
            if image is not None:
                raise ValueError("image input is given twice. Pass pixels or features or mm_encoder_outputs, not two.")
            image = self.get_image_features(pixel_values, return_dict=True)
        if world is None and encoded.keys() & set(BOUNDARIES):
            world = BaseModelOutputWithPooling(pooler_output=[])
        if world is not None and self.config.world_fusion == "gated":
            image, world = self.gate_image_features(image, world), None
        if image is not None or world is not None:  # Gemma's own way to write image features waits for the device
            inputs_embeds, input_ids = self._embed(input_ids, inputs_embeds, image, world), None
        outputs = super().forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            token_type_ids=token_type_ids,
            inputs_embeds=inputs_embeds,
            labels=labels,
            use_cache=use_cache,
            return_dict=True,
            **kwargs,
        )
        outputs.image_hidden_states = None if image is None else image.pooler_output
        return outputs


class TheWorldForConditionalGeneration(
    TheWorldPreTrainedModel, WorldGeneration, Gemma3ForConditionalGeneration, GenerationMixin
):
    """The model that answers: ``generate()`` with pictures and clips, world features computed once per prompt."""

    def __init__(self, config: TheWorldConfig) -> None:
        Gemma3PreTrainedModel.__init__(self, config)
        self.model = TheWorldModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.loss_function = causal_lm_loss
        self.register_load_state_dict_pre_hook(translate_gemmas_names)
        self.post_init()

    def get_world_features(
        self, pixel_values_world: WorldInput | None = None, world_features: WorldInput | None = None
    ) -> BaseModelOutputWithPooling:
        """See ``TheWorldModel.get_world_features``."""
        return self.model.get_world_features(pixel_values_world, world_features)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | dict[str, Any] | None = None,
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
        image_features: torch.Tensor | None = None,
        skip_logits: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | Gemma3CausalLMOutputWithPast:
        """Gemma 3's forward; the world inputs are named here because ``generate`` and ``Trainer`` look for them.

        World tokens are no targets: whatever ``labels`` has at their places carries no loss.

        Args:
            skip_logits: compute the loss alone, at the labels alone, and give no logits; the name is Trainer's and
                Liger's. Default: in training with ``labels``, unless ``loss_function`` was replaced.

        Raises:
            ValueError: logits are to be skipped and there are no labels.
        """
        if labels is not None and input_ids is not None:
            for token_id in self.config.world_token_ids:
                labels = torch.where(input_ids == token_id, IGNORE_INDEX, labels)
        if skip_logits is None:
            skip_logits = self.training and labels is not None and self.loss_function is causal_lm_loss
        if skip_logits and labels is None:
            raise ValueError("skip_logits=True leaves nothing to compute without labels. Pass labels.")
        tokens, places, words = input_ids if inputs_embeds is None else inputs_embeds, None, None
        if tokens is not None and skip_logits:
            places, words = supervised(labels, tokens.shape[:2], kwargs.get("shift_labels"))
        elif tokens is not None and has_world_input(mm_encoder_outputs, pixel_values_world, world_features):
            places = last_places(tokens, logits_to_keep)  # without the world this is Gemma 3 to the bit
        keep = None if places is None or not len(places) or self._gives_hidden_states(kwargs) else places
        outputs = self.model(
            input_ids=input_ids,
            pixel_values=pixel_values,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            token_type_ids=token_type_ids,
            inputs_embeds=inputs_embeds,
            labels=labels,
            use_cache=use_cache,
            mm_encoder_outputs=mm_encoder_outputs,
            pixel_values_world=pixel_values_world,
            world_features=world_features,
            image_features=image_features,
            hidden_to_keep=keep,
            return_dict=True,
            **kwargs,
        )
        hidden, logits, loss = outputs.last_hidden_state, None, None
        if skip_logits:
            rows = hidden.flatten(0, 1)[places.to(hidden.device)] if keep is None else hidden
            loss = supervised_loss(rows, words, self._logits, num_items_in_batch=kwargs.get("num_items_in_batch"))
        else:
            if keep is not None:
                hidden = hidden.unflatten(0, (len(tokens), -1))
            elif isinstance(logits_to_keep, Tensor) or logits_to_keep != hidden.shape[1]:
                hidden = slice_logits_to_keep(hidden, logits_to_keep)
            logits = self._logits(hidden)
            if labels is not None:
                loss = self.loss_function(logits=logits, labels=labels, vocab_size=logits.shape[-1], **kwargs)
        return Gemma3CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            image_hidden_states=outputs.image_hidden_states,
        )

    def _gives_hidden_states(self, kwargs: dict[str, Any]) -> bool:
        return bool(kwargs.get("output_hidden_states", self.config.text_config.output_hidden_states))

    def enable_input_require_grads(self) -> None:
        """Activation checkpointing asks for it: the inputs of parts that train something carry gradients.

        transformers' own asks every part, and a frozen tower would be computed again and differentiated for nothing.
        """
        self.disable_input_require_grads()
        towers = [tower for tower in self.model.children() if isinstance(tower, PreTrainedModel)]
        trained = [tower for tower in towers if any(one.requires_grad for one in tower.parameters())]
        embeddings = {self.get_input_embeddings(), *(tower.get_input_embeddings() for tower in trained)}
        self._require_grads_hooks = [
            one.register_forward_hook(lambda _module, _inputs, output: output.requires_grad_(True))
            for one in embeddings
        ]

    def _logits(self, hidden: Tensor) -> Tensor:
        """Scores of all words after each hidden state, with the text model's softcap if it has one."""
        # As a matrix: a strided slice of more dimensions times a frozen weight would be a slow batched product.
        rows = self.lm_head(hidden.flatten(0, -2))
        logits = rows.view(*hidden.shape[:-1], rows.shape[-1])
        cap = self.config.text_config.final_logit_softcapping
        return logits if cap is None else cap * torch.tanh(logits / cap)
