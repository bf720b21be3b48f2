# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportArgumentType=false
# transformers annotates generate and its caches otherwise than they are.
"""torch.compile: one graph for a prefill, three for all decode steps, and what comes out is what eager gives."""

import copy
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import jaxtyping
import pytest
import torch
from torch import Tensor, nn
from transformers import CompileConfig, StaticCache

from theworld_fusion import TheWorldForConditionalGeneration, TheWorldProcessor
from theworld_fusion.testing import chat, encode
from theworld_fusion.testing import random_clip as clip
from theworld_fusion.testing import random_picture as picture
from theworld_tokens import IGNORE_INDEX

Pair = tuple[TheWorldForConditionalGeneration, TheWorldProcessor]
Inputs = dict[str, Any]

CHATS = [chat(picture(0), clip(1)), chat(text="Hello"), chat(clip(2))]

pytestmark = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch, of itself


class Graphs:
    """A backend that counts the graphs it is given: a recompilation gives it one more."""

    def __init__(self, backend: str = "eager") -> None:
        self.backend, self.count = torch._dynamo.lookup_backend(backend), 0

    def __call__(self, graph: Any, inputs: Any) -> Any:
        self.count += 1
        return self.backend(graph, inputs)

    def __deepcopy__(self, memo: Any) -> "Graphs":
        return self  # transformers copies a compile_config


@pytest.fixture(autouse=True)
def compiler() -> Iterator[None]:
    """From the beginning, and without the shape checks of these tests, which no compiler can look through."""
    torch._dynamo.reset()
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
    torch._dynamo.reset()


def features(model: TheWorldForConditionalGeneration, inputs: Inputs) -> Inputs:
    """The prompt with what both encoders make of its pixels."""
    rest = {key: value for key, value in inputs.items() if not key.startswith("pixel_values")}
    with torch.no_grad():
        rest["mm_encoder_outputs"] = {"image": model.get_image_features(inputs["pixel_values"], return_dict=True)}
        if "pixel_values_world" in inputs:
            rest["world_features"] = model.get_world_features(inputs["pixel_values_world"]).last_hidden_state
    return rest


def close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)


@torch.no_grad()
def check_prefill(model: TheWorldForConditionalGeneration, inputs: Inputs, backend: str) -> None:
    graphs = Graphs(backend)
    compiled = torch.compile(model, fullgraph=True, backend=graphs)
    for _ in range(2):
        found = compiled(**inputs)
    assert graphs.count == 1
    wanted = model(**inputs)
    close(found.logits, wanted.logits)
    assert found.past_key_values.get_seq_length() == inputs["input_ids"].shape[1]
    close(found.past_key_values.layers[1].keys, wanted.past_key_values.layers[1].keys)


@pytest.mark.parametrize("given", ["pixels", "features"])
def test_a_prefill_is_one_graph(lively: Pair, given: str) -> None:
    model, processor = lively
    inputs = encode(processor, CHATS)
    if given == "features":
        inputs = features(model, inputs)
    # With aot_eager, torch itself gets strides of the world encoder's wrong.
    check_prefill(model, inputs, "eager" if given == "pixels" else "aot_eager")


def test_so_it_is_with_the_world_off(lively: Pair) -> None:
    model, processor = lively
    check_prefill(model, encode(processor, CHATS, world="off"), "aot_eager")


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")  # torch, of itself
def test_inductor_gives_what_eager_gives(build_lively: Callable[..., Pair]) -> None:
    model, processor = build_lively()
    check_prefill(model, features(model, encode(processor, CHATS)), "inductor")


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # looked at by the compiler
def test_training_steps_share_their_graphs_whatever_is_labelled(build_lively: Callable[..., Pair]) -> None:
    """What is in front of the labels' places, and behind; again where their number changes first, is 1, or is 0."""
    model, processor = build_lively()
    inputs, graphs, counts = encode(processor, CHATS), Graphs(), []
    compiled = torch.compile(model.train(), backend=graphs)
    for number in (5, 7, 30, 1, 0, 9, 1, 0):
        labels = inputs["input_ids"].clone()
        labels[:, : labels.shape[1] - number] = IGNORE_INDEX
        labels[1:] = IGNORE_INDEX
        gradients = []
        for one in (compiled, model):
            model.zero_grad()
            one(**inputs, labels=labels).loss.backward()
            gradients.append(model.model.world_projector.norm.weight.grad)
        torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-7)
        assert gradients[0].any() == (number > 0)
        counts.append(graphs.count)
    assert counts == [2, 3, 3, 4, 5, 5, 5, 5]


@torch.no_grad()
def decode(model: Any, step: Callable[..., Any], inputs: Inputs, steps: int) -> Tensor:
    """Logits of a prefill and of ``steps`` words after it, each in the static cache that the first one made."""
    rows, length = inputs["input_ids"].shape
    cache = StaticCache(model.config, max_cache_len=length + steps)
    logits = [model(**inputs, past_key_values=cache, logits_to_keep=1).logits]
    padding = inputs["attention_mask"]
    for place in range(length, length + steps):
        places = {"past_key_values": cache, "position_ids": torch.full((rows, 1), place)}
        padding = nn.functional.pad(padding, (0, 1), value=1)
        masks = model.create_masks_for_generate(model.config, torch.empty(rows, 1, 0), padding, **places)
        words = logits[-1].argmax(-1)
        logits.append(step(input_ids=words, attention_mask=masks, logits_to_keep=1, **places).logits)
    return torch.stack(logits)


def test_decode_steps_share_their_graphs_within_the_window_and_past_it(build_lively: Callable[..., Pair]) -> None:
    model, processor = build_lively()
    inputs = encode(processor, CHATS)
    left = model.config.text_config.sliding_window - inputs["input_ids"].shape[1]
    assert 3 < left < 12
    graphs, counts = Graphs("aot_eager"), []
    compiled = torch.compile(model, fullgraph=True, backend=graphs)

    def step(**kwargs: Any) -> Any:
        outputs = compiled(**kwargs)
        counts.append(graphs.count)
        return outputs

    close(decode(model, step, inputs, left + 8), decode(model, model, inputs, left + 8))
    # The first step's, one for every other place within the window, one for a window that is full.
    assert counts == [1, *[2] * (left - 1), *[3] * 8]


def test_generate_compiles_its_steps_and_answers_as_without_compiler_and_static_cache(lively: Pair) -> None:
    model, processor = copy.deepcopy(lively)  # generate keeps what it compiled on the model, and no pickle takes that
    inputs = encode(processor, CHATS)
    settings = {"do_sample": False, "max_new_tokens": 14, "min_new_tokens": 14}
    graphs = Graphs()
    compile_config = CompileConfig(fullgraph=True, backend=graphs, mode=None)
    compile_config._compile_all_devices = True  # it is for accelerators
    static = {"cache_implementation": "static", "compile_config": compile_config}
    found = model.generate(**inputs, **settings, **static)
    assert 1 <= graphs.count <= 3
    assert torch.equal(found, model.generate(**inputs, **settings))
