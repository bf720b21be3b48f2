# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false, reportArgumentType=false, reportIndexIssue=false, reportOperatorIssue=false, reportIncompatibleMethodOverride=false
# transformers annotates its processors' hooks otherwise than it calls them.
"""Processor: one ``images=`` feeds both branches, and the world placeholders are written into the text.

An item is a picture or a clip (a list of frames). The VLM's own branch sees a picture, or a clip's last frame; the
world branch sees all frames; both see them upright, opaque and in RGB, as ``to_frames`` makes them. Counting and range
checks happen here, on the host: the model never waits for a device.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from transformers import BatchFeature, Gemma3Processor
from transformers.processing_utils import ProcessingKwargs, Unpack
from transformers.tokenization_utils_base import PreTokenizedInput, TextInput

from theworld_encoders import (
    EncoderSpec,
    preprocess,
    read_video,
    spec_of,
    to_frames,
)
from theworld_encoders.preprocess import Item, is_clip
from theworld_fusion.configuration_theworld import TheWorldConfig
from theworld_fusion.picture import load_picture
from theworld_fusion.remote_code import saved_with_shim
from theworld_fusion.slots import num_slots
from theworld_tokens import Gemma3Token, TokenLayout, WorldToken, register_world_tokens, world_text

_leading: ContextVar[list[str] | None] = ContextVar("leading", default=None)
"""The spans that stand right after BOS, joined by prompt. Two hooks below read this: nothing else is passed to them."""
_beside: ContextVar[list[str] | None] = ContextVar("beside", default=None)
"""For every item the span that stands before its image block, or nothing."""
_crops: ContextVar[list[int] | None] = ContextVar("crops", default=None)
"""For every item the crops of pan and scan, where its image features are given."""

STAND_IN = Image.new("RGB", (1, 1))
"""In place of a picture or clip of which only features are needed."""


@saved_with_shim(AutoProcessor="TheWorldProcessor")
class TheWorldProcessor(Gemma3Processor):
    """Gemma 3's processor plus the world branch; see ``__call__``.

    Args:
        world_encoder: registry name of the encoder, whose spec says how its pixels are made.
        world_frame_size: height and width of the encoder's input, in pixels.
        world_fusion, world_tokens_per_item, world_placement, world_attention, max_world_frames, num_world_steps: as in
            ``TheWorldConfig``.
        world_num_frames: frames that are sampled evenly from a video file.
    """

    def __init__(
        self,
        image_processor: Any,
        tokenizer: Any,
        chat_template: str | None = None,
        image_seq_length: int = 256,
        world_encoder: str = "cosmos-predict2-vae",
        world_frame_size: int | None = None,
        world_fusion: str = "sequence",
        world_tokens_per_item: int = 784,
        world_placement: str = "first",
        world_attention: str = "bidirectional",
        max_world_frames: int = 16,
        num_world_steps: int = 0,
        world_num_frames: int = 13,
        **kwargs: Any,
    ) -> None:
        register_world_tokens(tokenizer, TokenLayout.from_tokenizer(tokenizer))
        published = spec_of(world_encoder)
        self.world_encoder = world_encoder
        self.world_frame_size = world_frame_size or published.frame_size
        self.world_fusion = world_fusion
        self.world_tokens_per_item = world_tokens_per_item
        self.world_placement = world_placement
        self.world_attention = world_attention
        self.max_world_frames = max_world_frames
        self.num_world_steps = num_world_steps
        self.world_num_frames = world_num_frames
        super().__init__(image_processor, tokenizer, chat_template, image_seq_length, **kwargs)

    @classmethod
    def from_config(cls, config: TheWorldConfig, base: Gemma3Processor, *, num_frames: int = 13) -> "TheWorldProcessor":
        """The processor that belongs to a model: Gemma 3's own parts, and the model's world settings."""
        return cls(
            base.image_processor,
            base.tokenizer,
            chat_template=base.chat_template,
            image_seq_length=base.image_seq_length,
            world_encoder=config.world_config.encoder,
            world_frame_size=config.world_config.frame_size,
            world_fusion=config.world_fusion,
            world_tokens_per_item=config.world_tokens_per_item,
            world_placement=config.world_placement,
            world_attention=config.world_attention,
            max_world_frames=config.max_world_frames,
            num_world_steps=config.num_world_steps,
            world_num_frames=num_frames,
        )

    @property
    def world_spec(self) -> EncoderSpec:
        """The encoder's numbers, at this processor's frame size, with as many predicted frames as the model's."""
        spec = spec_of(self.world_encoder)
        return replace(spec, frame_size=self.world_frame_size, future_frames=self.num_world_steps)

    @property
    def world_token_id(self) -> int:
        """The placeholder's id, as the tokenizer has it."""
        return self.tokenizer.convert_tokens_to_ids(WorldToken.WORLD_SOFT.text)

    def __call__(
        self,
        images: Any = None,
        text: TextInput | PreTokenizedInput | list[TextInput] | list[PreTokenizedInput] | None = None,
        world: Literal["on", "off"] | None = None,
        world_features: Sequence[torch.Tensor] | None = None,
        image_features: Sequence[torch.Tensor] | None = None,
        **kwargs: Unpack[ProcessingKwargs],
    ) -> BatchFeature:
        """Text and items to model inputs.

        Args:
            images: one item, a list of items, or one list of items per text; an item is a picture (PIL image, 8-bit
                RGB array or tensor, path or URL) or a list of frames.
            text: one prompt or several, with one ``<start_of_image>`` for each item.
            world: ``off`` leaves the world branch out of this call: exactly the base VLM's inputs. Default: ``on``.
            world_features: the encoder's output ``[t', r, s, c]`` for each item, where it was computed before; then no
                world pixels are made.
            image_features: the vision tower's pooled output ``[n, tokens, c]`` for each item, where it was computed
                before, crops of pan and scan included; then no pixels are made for the tower. Where both are given,
                ``STAND_IN`` serves as item.

        Returns:
            ``input_ids``, ``attention_mask``, ``token_type_ids`` (1 where attention is bidirectional), ``pixel_values``
            ``[images, 3, H, W]`` (or ``image_features``, ``[images, tokens, c]``) and ``pixel_values_world``: ``[m, t,
            3, h, w]``, or a list where lengths differ (or ``world_features``, as given).

        Raises:
            ValueError: items, placeholders and features do not match, an item has too many frames, or truncation cut a
                span.
        """
        if world not in (None, "on", "off"):
            raise ValueError(f"world is {world!r}. Use 'on' or 'off'.")
        texts = [text] if isinstance(text, str) else text
        rows = None if images is None else [[load_picture(item) for item in row] for row in self._rows(images, texts)]
        items = [item for row in rows or () for item in row]
        if not items or world == "off" or self.world_fusion == "none":
            return self._base_inputs(rows, text, image_features, kwargs)
        spans = self._world_spans(rows, self._latent_frames(items, world_features))
        with self._placed(spans, texts):
            inputs = self._base_inputs(rows, text, image_features, kwargs)
        self._check_world(inputs, spans, len(items))
        if world_features is not None:
            inputs["world_features"] = list(world_features)
        else:
            spec = self.world_spec
            pixels = [preprocess(item, spec) for item in items]
            same = len({len(item) for item in pixels}) == 1
            inputs["pixel_values_world"] = torch.stack(pixels) if same else pixels
        return inputs

    def _base_inputs(
        self, rows: list[list[Item]] | None, text: Any, features: Sequence[torch.Tensor] | None, kwargs: Any
    ) -> BatchFeature:
        """What Gemma 3's processor makes of the items, or of image features in place of their pixels."""
        items = [item for row in rows or () for item in row]
        if features is None or not items:
            images = None if rows is None else [[_last_frame(item) for item in row] for row in rows]
            return super().__call__(images=images, text=text, **kwargs)
        if len(features) != len(items):
            raise ValueError(f"there are {len(features)} image features for {len(items)} items. Give one for each.")
        for one in features:
            if one.ndim != 3 or one.shape[1] != self.image_seq_length:
                raise ValueError(
                    f"image features have shape {tuple(one.shape)}. Give [images, {self.image_seq_length}, width] for "
                    "each item."
                )
        given = _crops.set([len(one) - 1 for one in features])
        try:
            inputs = super().__call__(images=[[STAND_IN] * len(row) for row in rows or ()], text=text, **kwargs)
        finally:
            _crops.reset(given)
        inputs["image_features"] = torch.cat(list(features))
        return inputs

    def _process_images(self, images: Any, **kwargs: Any) -> tuple[dict[str, Any], list[str]]:
        """Gemma 3's, or with image features given only the blocks of placeholders."""
        if (crops := _crops.get()) is None:
            return super()._process_images(images, **kwargs)
        return {}, [self.replace_image_token({"num_crops": crops}, index) for index in range(len(crops))]

    def without_pixels(
        self, text: str, frames: Sequence[int], *, world: Literal["on", "off"] = "on"
    ) -> dict[str, list[Any]]:
        """What a call makes of a rendered chat's text, with items of so many frames each, of which it needs no pixels.

        An image processor that crops (``do_pan_and_scan``) makes more of large pictures.

        Returns:
            ``input_ids`` and ``token_type_ids``; ``offset_mapping``, each token's characters in the text after
            placeholders grew; and ``text_replacement_offsets``, which says where they grew.

        Raises:
            ValueError: an item has too many frames, or none.
        """
        spans = [[""] * len(frames)]
        if frames and world == "on" and self.world_fusion != "none":
            spans = self._world_spans([list(frames)], [self.world_spec.feature_frames(count) for count in frames])
        with self._placed(spans, [text]):
            images = [self.replace_image_token({"num_crops": [0] * len(frames)}, index) for index in range(len(frames))]
            (expanded,), (grown,) = self.get_text_with_replacements([text], images)
        tokens = self.tokenizer(expanded, add_special_tokens=False, return_offsets_mapping=True)
        return {
            "input_ids": tokens["input_ids"],
            "token_type_ids": self.create_mm_token_type_ids([tokens["input_ids"]])[0],
            "offset_mapping": tokens["offset_mapping"],
            "text_replacement_offsets": grown,
        }

    def _rows(self, images: Any, texts: Sequence[Any] | None) -> list[list[Item]]:
        """Items by text. Every reading of the nesting is tried against the placeholders; at most one can fit."""
        if not isinstance(images, Sequence) or isinstance(images, str):
            images = [images]
        if texts is None:
            nested = all(_is_list(row) for row in images)
            return [list(row) for row in images] if nested else [[item] for item in images]
        counts = [sample.count(self.image_token) for sample in texts]
        if len(images) == len(counts) and all(
            _is_list(row) and len(row) == count for row, count in zip(images, counts, strict=True)
        ):
            return [list(row) for row in images]
        if len(images) != sum(counts):
            raise ValueError(
                f"{self.image_token} tokens in the prompts should be the same as the number of items: there are "
                f"{sum(counts)} ({counts} by prompt) for {len(images)} items. "
                "Give one item for each; a clip is one item, a list of frames."
            )
        items = iter(images)
        return [[next(items) for _ in range(count)] for count in counts]

    def _latent_frames(self, items: list[Item], features: Sequence[torch.Tensor] | None) -> list[int]:
        """Latent frames of every item, counted from its features or else from its frames."""
        if features is None:
            frames = [len(item) if is_clip(item) else 1 for item in items]
            if 0 in frames:
                raise ValueError(f"item {frames.index(0)}, a clip, has no frames. Give at least one.")
            spec = self.world_spec
            return [spec.feature_frames(count) for count in frames]
        if len(features) != len(items):
            raise ValueError(
                f"there are {len(features)} world features for {len(items)} items. Give one for each item."
            )
        return [len(item) for item in features]

    def _world_spans(self, rows: list[list[Item]], latent_frames: list[int]) -> list[list[str]]:
        """Each item's span, by prompt; with ``gated`` fusion they are empty."""
        for frames in latent_frames:
            if frames > self.max_world_frames:
                most = self.world_spec.most_frames(self.max_world_frames)
                raise ValueError(
                    f"a clip makes {frames} latent frames; max_world_frames is {self.max_world_frames}. "
                    f"Give at most {most} frames."
                )
        frames = iter(latent_frames)
        if self.world_fusion == "gated":
            return [["" for _ in row] for row in rows]
        return [[world_text(num_slots(self.world_tokens_per_item, next(frames))) for _ in row] for row in rows]

    @contextmanager
    def _placed(self, spans: list[list[str]], texts: Sequence[str] | None) -> Iterator[None]:
        """Decide where each span stands while a call expands its prompts.

        With ``first`` that is right after BOS, but for items of a later turn beside their image: a conversation that
        goes on never changes what is in a cache already.
        """
        if self.world_placement == "beside_image":
            counts = [0] * len(spans)
        elif texts is None:
            counts = [len(row) for row in spans]
        else:
            counts = [self._items_of_first_turn(text) for text in texts]
        both = list(zip(spans, counts, strict=True))
        leading = _leading.set(["".join(row[:count]) for row, count in both])
        beside = _beside.set([span for row, count in both for span in [""] * count + row[count:]])
        try:
            yield
        finally:
            _leading.reset(leading)
            _beside.reset(beside)

    def _items_of_first_turn(self, text: str) -> int:
        """Images before the model's first answer."""
        return text.partition(f"{Gemma3Token.START_OF_TURN.text}model")[0].count(self.image_token)

    def replace_image_token(self, image_inputs: dict, image_idx: int, **kwargs: Any) -> str:
        """Gemma 3's image block, after its world span where that stands beside it."""
        block, beside = super().replace_image_token(image_inputs, image_idx, **kwargs), _beside.get()
        return block if beside is None else beside[image_idx] + block

    def get_text_with_replacements(self, text: list[str], *args: Any, **kwargs: Any) -> tuple[list[str], list[Any]]:
        """Gemma 3's expansion; each prompt's leading world spans stand right after its BOS."""
        expanded, offsets = super().get_text_with_replacements(text, *args, **kwargs)
        for index, spans in enumerate(_leading.get() or ()):
            if not spans:
                continue
            bos = self.tokenizer.bos_token
            start = len(bos) if expanded[index].startswith(bos) else 0
            expanded[index] = expanded[index][:start] + spans + expanded[index][start:]
            for entry in offsets[index]:
                entry["new_span"] = tuple(position + len(spans) for position in entry["new_span"])
            # transformers knows no type of ours; the spans are the images' too, and stand for no text.
            inserted = {"type": "image", "span": (start, start), "new_span": (start, start + len(spans))}
            offsets[index].insert(0, {**inserted, "text": "", "replacement": spans})
        return expanded, offsets

    @property
    def image_token_ids(self) -> list[int]:
        """The ids whose runs see each other in both directions; this is what ``token_type_ids`` marks."""
        world = [self.world_token_id] if self.world_attention == "bidirectional" else []
        return [*super().image_token_ids, *world]

    @property
    def model_input_names(self) -> list[str]:
        return [*super().model_input_names, "pixel_values_world"]

    def _check_world(self, inputs: BatchFeature, spans: list[list[str]], num_items: int) -> None:
        image_tokens = self.tokenizer.image_token_id
        for index, (ids, row) in enumerate(zip(inputs["input_ids"], spans, strict=True)):
            ids, text = ids if isinstance(ids, list) else ids.tolist(), "".join(row)
            wanted = {token.text: text.count(token.text) for token in WorldToken}
            images = ids.count(image_tokens) // self.image_seq_length  # Gemma 3's own check has counted these
            wanted |= {Gemma3Token.START_OF_IMAGE.text: images, Gemma3Token.END_OF_IMAGE.text: images}
            for token, count in wanted.items():
                found = ids.count(self.tokenizer.convert_tokens_to_ids(token))
                if found != count:
                    raise ValueError(
                        f"prompt {index} has {found} {token} tokens, its items take {count}. "
                        "Turn truncation off or raise max_length, and leave these tokens out of the text."
                    )
        made = len(inputs.get("pixel_values", inputs.get("image_features")))
        if self.world_fusion == "gated" and made != num_items:
            raise ValueError(
                f"gated fusion adds each item's world features to one image, and {num_items} items made {made} images. "
                "Turn do_pan_and_scan off."
            )

    def load_media(self, messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """The same chat with its media loaded: every ``image`` or ``video`` block becomes an image block with an item.

        A video file is sampled at ``world_num_frames`` even frames. The chat that is given stays as it was.

        Raises:
            MediaError: a file cannot be read.
        """
        return [
            {**message, "content": [self._load_block(block) for block in message["content"]]}
            if isinstance(message.get("content"), list)
            else message
            for message in messages
        ]

    def _normalize_conversations(self, conversation: Any) -> tuple[list, bool]:
        conversations, is_batched = super()._normalize_conversations(conversation)
        return [self.load_media(messages) for messages in conversations], is_batched

    def _load_block(self, block: Any) -> Any:
        if not isinstance(block, dict) or block.get("type") not in ("image", "video"):
            return block
        source = next((block[key] for key in (block["type"], "path", "url") if block.get(key) is not None), None)
        if block["type"] == "video":
            if source is None:
                raise ValueError('a video block has no "video". Give a path or a list of frames.')
            if isinstance(source, str | Path):
                source = read_video(source, self.world_num_frames).frames
            return {"type": "image", "image": list(source)}
        return block if source is None else {"type": "image", "image": load_picture(source)}


def _last_frame(item: Item) -> Any:
    return to_frames(item[-1:] if is_clip(item) else item)[0]


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)
