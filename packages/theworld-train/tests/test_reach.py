"""Trained weights that a batch does not use get gradients of zero; those that it uses get the same as ever."""

from collections.abc import Callable

import torch
from PIL import Image

from theworld_fusion import TheWorldForConditionalGeneration, TheWorldProcessor
from theworld_fusion.testing import chat
from theworld_train.data import Collator, Example
from theworld_train.reach import reach_all
from theworld_train.recipe import LoraSettings, PartName, PartSettings
from theworld_train.trainable import apply_parts

Pair = tuple[TheWorldForConditionalGeneration, TheWorldProcessor]
PARTS: dict[PartName, PartSettings] = {
    "world_projector": PartSettings(),
    "vision_tower": PartSettings(lora=LoraSettings(rank=2)),
    "image_projector": PartSettings(),
}


def gradients(pair: Pair, *, picture: bool) -> tuple[torch.Tensor, dict[str, torch.Tensor | None]]:
    model, processor = pair
    content = chat(*([Image.new("RGB", (48, 48), "red")] if picture else []), text="What is it?")
    example = Example(messages=[*content, {"role": "assistant", "content": "red"}])
    loss = model.train()(**Collator(processor)([example])).loss
    if loss.requires_grad:
        model.zero_grad()
        loss.backward()
    return loss.detach(), {name: one.grad for name, one in model.named_parameters() if one.requires_grad}


def test_a_batch_without_pictures_gives_zeros_and_one_with_them_what_it_gave_before(build: Callable[[], Pair]) -> None:
    pair = build()
    apply_parts(pair[0], PARTS, lr=1.0)
    bare_loss, bare = gradients(pair, picture=False)
    assert all(gradient is None for gradient in bare.values())  # the loss has no gradient at all
    seen_loss, seen = gradients(pair, picture=True)
    pair[0].zero_grad()

    reach_all(pair[0])
    loss, reached = gradients(pair, picture=False)
    assert torch.equal(loss, bare_loss)
    assert all(gradient is not None and not gradient.any() for gradient in reached.values())
    loss, reached = gradients(pair, picture=True)
    assert torch.equal(loss, seen_loss)
    for name, gradient in seen.items():
        other = reached[name]
        assert other is not None
        assert torch.equal(other, torch.zeros_like(other) if gradient is None else gradient), name


def test_nothing_is_reached_where_nothing_is_asked_for(build: Callable[[], Pair]) -> None:
    pair = build()
    apply_parts(pair[0], PARTS, lr=1.0)
    reach_all(pair[0])
    with torch.no_grad():
        assert not gradients(pair, picture=False)[0].requires_grad
