"""The attention mask as a matrix: every entry is what the configuration says, on full and on sliding layers."""

from collections.abc import Callable

import pytest
import torch

from theworld_fusion import TheWorldForConditionalGeneration, TheWorldProcessor
from theworld_fusion.testing import chat, encode
from theworld_fusion.testing import random_clip as clip
from theworld_fusion.testing import random_picture as picture

Pair = tuple[TheWorldForConditionalGeneration, TheWorldProcessor]

WINDOW = 20
"""Shorter than a world span of 36, so that the sliding layer cuts through it."""


def seen_masks(model: TheWorldForConditionalGeneration, inputs: dict) -> dict[str, torch.Tensor]:
    """Where each kind of layer may look, ``[b, l, l]``, as its attention gets it."""
    text, masks = model.model.language_model, {}
    handles = [
        layer.self_attn.register_forward_pre_hook(
            lambda module, args, kwargs, kind=kind: masks.update({kind: kwargs["attention_mask"][:, 0] == 0}),
            with_kwargs=True,
        )
        for kind, layer in zip(model.config.text_config.layer_types, text.layers, strict=True)
    ]
    with torch.no_grad():
        model(**inputs)
    for handle in handles:
        handle.remove()
    return masks


def blocks(ids: list[int], kinds: set[int]) -> list[int | None]:
    """For each position the number of the run of ``kinds`` that it is in, or nothing."""
    numbers, current, before = [], -1, None
    for token in ids:
        current += token in kinds and token != before
        numbers.append(current if token in kinds else None)
        before = token
    return numbers


@pytest.mark.parametrize("attention", ["bidirectional", "causal"])
@pytest.mark.parametrize("fusion", ["first", "beside_image", "gated"])
def test_every_entry_of_the_mask(build: Callable[..., Pair], attention: str, fusion: str) -> None:
    kind = {"world_fusion": "gated"} if fusion == "gated" else {"world_placement": fusion}
    model, processor = build(world_attention=attention, **kind)
    model.set_attn_implementation("eager")
    model.config.text_config.sliding_window = WINDOW
    config = model.config
    inputs = encode(processor, [chat(picture(0), clip(1)), chat(picture(2), text="Which way?")])
    masks = seen_masks(model, inputs)
    assert set(masks) == {"full_attention", "sliding_attention"}

    both_ways = {config.image_token_id} | ({config.world_token_id} if attention == "bidirectional" else set())
    for row, ids in enumerate(inputs["input_ids"].tolist()):
        runs, real = blocks(ids, both_ways), inputs["attention_mask"][row].bool().tolist()
        start = real.index(True)  # what stands at padding does not matter
        wanted = {name: torch.zeros(len(ids), len(ids), dtype=torch.bool) for name in masks}
        for query in range(start, len(ids)):
            for key in range(start, len(ids)):
                allowed = key <= query or (runs[query] is not None and runs[query] == runs[key])
                wanted["full_attention"][query, key] = allowed
                wanted["sliding_attention"][query, key] = allowed and query - key < WINDOW
        for name, mask in masks.items():
            assert torch.equal(mask[row, start:], wanted[name][start:]), (name, row)
        if fusion != "gated":
            assert config.world_token_id in ids
        assert not torch.equal(wanted["full_attention"], wanted["sliding_attention"])
