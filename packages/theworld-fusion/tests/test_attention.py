# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportArgumentType=false
# transformers annotates generate otherwise than it is.
"""FlexAttention, whose masks are block masks and no matrices, gives what scaled dot products give."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from theworld_fusion import TheWorldForConditionalGeneration, TheWorldProcessor, load_model
from theworld_fusion.testing import chat, encode
from theworld_fusion.testing import random_clip as clip
from theworld_fusion.testing import random_picture as picture

Pair = tuple[TheWorldForConditionalGeneration, TheWorldProcessor]
Inputs = dict[str, Any]

CHATS = [chat(picture(0), clip(1)), chat(text="Hello"), chat(clip(2))]

pytestmark = [  # what transformers does to torch, and torch to itself
    pytest.mark.filterwarnings("ignore:_compile flag on create_block_mask:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning"),
    pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
]


@contextmanager
def uncompiled() -> Iterator[None]:
    """FlexAttention's own arithmetic without its kernel, which takes a compiler half a minute."""
    with torch.compiler.set_stance("force_eager"):
        yield


@torch.no_grad()
def answers(model: TheWorldForConditionalGeneration, inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Logits at all that is no padding, and what is said."""
    logits = model(**inputs).logits[inputs["attention_mask"].bool()]
    return logits, model.generate(**inputs, max_new_tokens=6, do_sample=False)


def masks_of(model: TheWorldForConditionalGeneration, inputs: Inputs) -> list[Any]:
    seen: list[Any] = []
    hooks = [
        layer.self_attn.register_forward_pre_hook(
            lambda module, args, kwargs: seen.append(kwargs["attention_mask"]), with_kwargs=True
        )
        for layer in model.model.language_model.layers
    ]
    with torch.no_grad():
        model(**inputs)
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("attention", ["bidirectional", "causal"])
@pytest.mark.parametrize("world", ["on", "off"])
def test_padded_batches_and_single_rows(
    build_lively: Callable[..., Pair], fusion: str, attention: str, world: str
) -> None:
    model, processor = build_lively(world_fusion=fusion, world_attention=attention)
    # Narrower than a world span, which the sliding layer then cuts through.
    model.config.text_config.sliding_window = 20
    for chats in (CHATS, CHATS[0]):
        inputs = encode(processor, chats, world=world)
        model.set_attn_implementation("sdpa")
        wanted = answers(model, inputs)
        model.set_attn_implementation("flex_attention")
        with uncompiled():
            assert all(isinstance(mask, BlockMask) for mask in masks_of(model, inputs))
            found = answers(model, inputs)
        torch.testing.assert_close(found[0], wanted[0], rtol=0, atol=1e-4)
        assert torch.equal(found[1], wanted[1])


@pytest.mark.parametrize("of", ["flex_attention", {"text_config": "flex_attention"}])
def test_a_model_can_be_loaded_with_it(pair: Pair, tmp_path: Path, of: str | dict[str, str]) -> None:
    model, processor = pair
    model.save_pretrained(tmp_path)
    loaded, inputs = load_model(tmp_path, attn_implementation=of), encode(processor, CHATS)
    assert loaded.config.text_config._attn_implementation == "flex_attention"
    vision = "sdpa" if isinstance(of, dict) else "flex_attention"
    assert loaded.config.vision_config._attn_implementation == vision
    with uncompiled():
        found = answers(loaded, inputs)
    torch.testing.assert_close(found[0], answers(model, inputs)[0], rtol=0, atol=1e-4)


def test_on_a_cpu_it_has_no_backward_pass(build: Callable[..., Pair]) -> None:
    model, processor = build()
    model.set_attn_implementation({"text_config": "flex_attention"})
    inputs = encode(processor, CHATS)
    with uncompiled(), pytest.raises(NotImplementedError, match="FlexAttention does not support backward on CPU"):
        model(**inputs, labels=inputs["input_ids"])


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")
def test_its_compiled_kernel_on_a_padded_batch(build_lively: Callable[..., Pair]) -> None:
    model, processor = build_lively()
    inputs = encode(processor, CHATS)
    real = inputs["attention_mask"].bool()
    with torch.no_grad():
        wanted = model(**inputs).logits[real]
        model.set_attn_implementation({"text_config": "flex_attention"})
        # With lengths that vary, torch's own code for CPUs mistakes one variable's name for another's beginning.
        with torch._dynamo.config.patch(automatic_dynamic_shapes=False):
            found = model(**inputs).logits[real]
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)
