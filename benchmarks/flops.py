"""Floating point operations at Gemma-3-4B's and Cosmos-Predict2's sizes, counted on tensors without values."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.models import IDS, Size, build, features, geometry, labels, picture, plain, prompt
from benchmarks.predecessor import Predecessor
from benchmarks.row import Row, counted
from theworld_fusion import TheWorldForConditionalGeneration
from theworld_fusion.loss import supervised, supervised_loss


def counted_rows() -> Iterator[Row]:
    """Prefill of one prompt, and a training step of the world projector alone, of one sample."""
    model = build("full")
    inputs = prompt(model)
    theirs = prefill_plain(model, inputs)
    ours, before = prefill(model, inputs), prefill_predecessor(model, inputs)
    about = {"geometry": geometry("full"), "device": "meta", "seed": None}
    arms = {"ours": ours / 1e12, "plain": theirs / 1e12, "predecessor": before / 1e12}
    yield counted("flops.prefill_ratio", ours / theirs, arms=arms, **about)
    before = train_predecessor(model, inputs) / 1e12
    live, cached = (train(model, inputs, ahead=ahead) / 1e12 for ahead in (False, True))
    yield counted("flops.train_live", live, arms={"predecessor": before}, **about)
    yield counted("flops.train_cached", cached, arms={"predecessor": before}, **about)


def flops(work: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


@torch.no_grad()
def prefill(model: TheWorldForConditionalGeneration, inputs: dict[str, Tensor]) -> int:
    return flops(lambda: model.eval()(**inputs, **picture(model), logits_to_keep=1))


@torch.no_grad()
def prefill_plain(model: TheWorldForConditionalGeneration, inputs: dict[str, Tensor]) -> int:
    """The base VLM's, at equal length: other tokens where ours has the world's."""
    stock = plain(model)
    pixels = {"pixel_values": picture(model)["pixel_values"]}
    stock.model.get_placeholder_mask = lambda input_ids, inputs_embeds, image_features: (
        (input_ids == IDS.image).unsqueeze(-1).expand_as(inputs_embeds)
    )  # its own counts placeholders, and these ids have no values
    return flops(lambda: stock(**inputs, **pixels, logits_to_keep=1))


@torch.no_grad()
def prefill_predecessor(model: TheWorldForConditionalGeneration, inputs: dict[str, Tensor]) -> int:
    return flops(lambda: _Predecessor(model).logits({**inputs, **picture(model)}))


def train(model: TheWorldForConditionalGeneration, inputs: dict[str, Tensor], *, ahead: bool) -> int:
    """With live towers, or with what they give computed ahead."""
    given = features(model, picture(model), vision=True) if ahead else picture(model)
    targets = labels(inputs)
    places, words = supervised(targets, targets.shape)

    def step() -> None:
        outputs = model.train().model(**inputs, **given, use_cache=False, hidden_to_keep=places)
        supervised_loss(outputs.last_hidden_state, words, model.lm_head).backward()

    return flops(step)


def count_training(size: Size) -> int:
    """Operations of a training step of one sample, with both towers' features given."""
    model = build(size, device="meta")
    return train(model, prompt(model), ahead=True)


def train_predecessor(model: TheWorldForConditionalGeneration, inputs: dict[str, Tensor]) -> int:
    return flops(lambda: _Predecessor(model).loss({**inputs, **picture(model)}, labels(inputs)).backward())


class _Predecessor(Predecessor):
    """What it asks of ids without values is known."""

    def markers(self, ids: Tensor) -> tuple[int, int]:
        return 1, 2

    def image_places(self, ids: Tensor, embeds: Tensor, image: Tensor) -> Tensor:
        return (ids == IDS.image).unsqueeze(-1).expand_as(embeds)
