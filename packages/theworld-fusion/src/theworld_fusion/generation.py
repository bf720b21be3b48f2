# pyright: reportAttributeAccessIssue=false, reportArgumentType=false
# What is mixed in here calls the model that it is mixed into.
"""How ``generate`` handles the world: encoded once per prompt, dealt to beams and chunks, and never generated."""

from copy import copy
from itertools import accumulate, pairwise
from typing import Any

from torch import Tensor
from transformers.generation import GenerationConfig, LogitsProcessorList
from transformers.modeling_outputs import BaseModelOutputWithPooling

from theworld_fusion.placeholders import NoPlaceholders
from theworld_fusion.prefix import HAS_WORLD, PrefixCache, PromptCache

BOUNDARIES = ("world_start", "world_end")
"""transformers deals encoded inputs to a prefill's chunks by ``config.{name}_token_id``; these say where one begins."""


class GatedImageFeatures(BaseModelOutputWithPooling):
    """Image features that hold the world's already; the type says so."""


def has_world_input(encoded: dict[str, Any] | None, *given: Any) -> bool:
    """Whether there is world input: among ``mm_encoder_outputs``, or ``given`` otherwise."""
    known = encoded or {}
    return any(one is not None for one in (*given, known.get("world"))) or isinstance(
        known.get("image"), GatedImageFeatures
    )


class WorldGeneration:
    """Mixed into the model before Gemma 3's class; every method is one of transformers' own hooks."""

    def _prepare_model_inputs(
        self, inputs: Tensor | None, bos_token_id: Tensor | None, model_kwargs: dict[str, Any]
    ) -> tuple[Tensor, str | None, dict[str, Any]]:
        """A ``PrefixCache`` takes from a call what it knows of the prompt, before anything is encoded."""
        tensor, name, model_kwargs = super()._prepare_model_inputs(inputs, bos_token_id, model_kwargs)
        if isinstance(prefix := model_kwargs.get("past_key_values"), PrefixCache):
            if name != "input_ids":
                raise ValueError("a PrefixCache compares prompts by their ids. Pass input_ids, and no inputs_embeds.")
            model_kwargs = prefix.begin(self, tensor, model_kwargs)
        return tensor, name, model_kwargs

    def _prepare_cache_for_generation(
        self, generation_config: GenerationConfig, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> Any:
        """What a ``PrefixCache`` keeps is computed at once and stays."""
        if isinstance(model_kwargs.get("past_key_values"), PromptCache):
            if not generation_config.use_cache:
                raise ValueError("use_cache is False, and past_key_values is a PrefixCache. Leave one of them out.")
            if generation_config.prefill_chunk_size:
                raise ValueError(
                    "prefill_chunk_size cuts through pictures, and what was cut would be kept. Leave it out with a "
                    "PrefixCache."
                )
        return super()._prepare_cache_for_generation(generation_config, model_kwargs, *args, **kwargs)

    def prepare_inputs_for_generation(  # the name ``kwargs`` matters: transformers inspects it
        self,
        input_ids: Tensor,
        use_cache: bool = True,
        is_first_iteration: bool = False,
        inputs_embeds: Tensor | None = None,
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
        given = model_kwargs.get("mm_encoder_outputs") or {}
        # Beams expand these objects in place: the caller keeps theirs as they are.
        model_kwargs["mm_encoder_outputs"] = {key: copy(value) for key, value in given.items()}
        model_kwargs = super()._prepare_multimodal_encoder_kwargs_for_generation(model_kwargs)
        model_kwargs["mm_encoder_outputs"] = self.model.with_image_features(
            model_kwargs["mm_encoder_outputs"], model_kwargs.pop("image_features", None)
        )
        world = (model_kwargs.pop("pixel_values_world", None), model_kwargs.pop("world_features", None))
        encoded = model_kwargs["mm_encoder_outputs"] = self.model.with_world_features(
            model_kwargs["mm_encoder_outputs"], *world
        )
        if encoded.get("world") is not None and self.config.world_fusion == "gated":
            encoded["image"] = self.model.gate_image_features(encoded.get("image"), encoded.pop("world"))
        elif encoded.get("world") is not None:
            tokens = encoded["world"].pooler_output
            for name in BOUNDARIES:
                encoded[name] = BaseModelOutputWithPooling(pooler_output=tokens[0].new_zeros(len(tokens), 1, 1))
        return model_kwargs

    def _get_logits_processor(
        self, generation_config: GenerationConfig, *args: Any, **kwargs: Any
    ) -> LogitsProcessorList:
        """With the world on, no placeholder is ever generated; with it off, decoding is the base VLM's."""
        processors = super()._get_logits_processor(generation_config, *args, **kwargs)
        config, model_kwargs = self.config, kwargs.get("model_kwargs") or {}
        encoded, cache = model_kwargs.get("mm_encoder_outputs") or {}, model_kwargs.get("past_key_values")
        ids = kwargs.get("encoder_input_ids")
        if ids is not None and ids.is_floating_point():
            ids = None  # the prompt was given as embeddings
        if (
            has_world_input(encoded)
            or getattr(cache, HAS_WORLD, False)
            # A cache that forward() filled. Only then, for to look at ids is to wait for the device.
            or (ids is not None and cache is not None and cache.get_seq_length() and config.world_token_id in ids)
        ):
            if cache is not None:
                setattr(cache, HAS_WORLD, True)
            marker = config.image_token_id if config.world_fusion == "gated" else config.world_token_id
            placeholders = [*config.world_token_ids, config.image_token_id]
            processors.insert(0, NoPlaceholders(placeholders, marker, None if ids is None else ids.shape[1]))
        return processors

    def _expand_inputs_for_generation(
        self,
        expand_size: int = 1,
        is_encoder_decoder: bool = False,
        input_ids: Tensor | None = None,
        **model_kwargs: Any,
    ) -> tuple[Tensor | None, dict[str, Any]]:
        """transformers deals media out by the placeholders of the prompt, and those of a prefix have none left."""
        encoded, dealt = model_kwargs.get("mm_encoder_outputs"), None
        cache = model_kwargs.get("past_key_values")
        if expand_size > 1 and encoded and input_ids is not None and isinstance(cache, PromptCache):
            dealt = self._expand_multimodal_outputs(input_ids[:, cache.get_seq_length() :], encoded, expand_size)
            model_kwargs["mm_encoder_outputs"] = None
        ids, model_kwargs = super()._expand_inputs_for_generation(
            expand_size, is_encoder_decoder, input_ids, **model_kwargs
        )
        if dealt is not None:
            model_kwargs["mm_encoder_outputs"] = dealt
        return ids, model_kwargs

    def _expand_multimodal_outputs(
        self,
        input_ids: Tensor | None,
        mm_encoder_output: dict,
        expand_size: int = 1,
        inputs_embeds: Tensor | None = None,
    ) -> dict[str, Any]:
        """For beams and several return sequences: each row's world items are repeated as a group, ``A B A B``."""
        expanded = super()._expand_multimodal_outputs(input_ids, mm_encoder_output, expand_size, inputs_embeds)
        if (world := expanded.get("world")) is not None:
            ids = input_ids if input_ids is not None and input_ids.numel() else None
            slots = self.model.placeholders(self.config.world_token_id, ids, inputs_embeds)
            ends = list(accumulate(len(tokens) for tokens in world.pooler_output))
            row_ends = list(accumulate(slots.sum(-1).tolist()))
            bounds = [0, *(ends.index(end) + 1 if end in ends else 0 for end in row_ends)]
            bounds = list(accumulate(bounds, max))  # a row without items ends where the row before it did
            expanded["world"] = BaseModelOutputWithPooling(
                pooler_output=[
                    tokens
                    for start, end in pairwise(bounds)
                    for tokens in list(world.pooler_output[start:end]) * expand_size
                ]
            )
            for name in expanded.keys() & set(BOUNDARIES):
                marks = expanded[name].pooler_output
                expanded[name] = BaseModelOutputWithPooling(pooler_output=marks.repeat(expand_size, 1, 1))
        return expanded
