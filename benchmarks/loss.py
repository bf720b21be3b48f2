"""The training loss beside transformers' own, at Gemma's vocabulary and width; needs 8 GB of memory.

Both take the same hidden states and the same frozen head, forwards and backwards.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers.loss.loss_utils import ForCausalLMLoss

from benchmarks.models import LABELLED, LENGTH
from benchmarks.row import Row
from benchmarks.timing import peak_megabytes
from theworld_fusion.loss import CHUNK, supervised, supervised_loss
from theworld_tokens import IGNORE_INDEX

VOCABULARY, WIDTH, SMALL_CHUNK = 262_208, 2560, 16


def timed_rows(full: bool) -> Iterator[Row]:
    if not full:
        return
    for name, labelled, chunk in [
        ("loss.peak_ratio", LABELLED, CHUNK),
        ("loss.peak_ratio_chunked", LABELLED, SMALL_CHUNK),
        ("loss.peak_ratio_all", LENGTH - 1, CHUNK),
    ]:
        about: dict[str, Any] = {"geometry": {"vocabulary": VOCABULARY, "width": WIDTH, "labelled": labelled}}
        check_equal(labelled, chunk)
        arms = {
            "transformers": peak_megabytes(step, labelled, None),
            "ours": peak_megabytes(step, labelled, chunk),
        }
        value = arms["transformers"] / arms["ours"]
        yield Row(name=name, value=value, low=value, high=value, arms=arms, **about)


def problem(labelled: int, vocabulary: int = VOCABULARY, width: int = WIDTH) -> tuple[Tensor, Tensor, nn.Linear]:
    """Hidden states of one sample, its labels (the last ones) and a frozen head."""
    torch.manual_seed(0)
    head = nn.Linear(width, vocabulary, bias=False, device="meta", dtype=torch.bfloat16).to_empty(device="cpu")
    nn.init.normal_(head.weight, std=0.02)
    targets = torch.randint(vocabulary, (1, LENGTH))
    targets[:, : LENGTH - labelled] = IGNORE_INDEX
    return torch.randn(1, LENGTH, width).bfloat16().requires_grad_(), targets, head.requires_grad_(False)


def loss(hidden: Tensor, targets: Tensor, head: nn.Linear, chunk: int | None) -> Tensor:
    """transformers', or ours so many positions at a time."""
    if chunk is None:
        return ForCausalLMLoss(head(hidden), targets, head.out_features)
    places, words = supervised(targets, hidden.shape[:2])
    return supervised_loss(hidden.flatten(0, 1)[places], words, head, chunk=chunk)


def step(labelled: int, chunk: int | None) -> Callable[[], None]:
    torch.set_num_threads(1)
    small = problem(4, 64)  # what libraries set up once is not the loss's
    loss(*small, chunk).backward()
    given = problem(labelled)
    return lambda: loss(*given, chunk).backward()


def check_equal(labelled: int, chunk: int) -> None:
    """Both arms have one loss and one gradient, at a vocabulary that is quickly computed."""
    found = []
    for size in (None, chunk):
        given = problem(labelled, 1024, 64)
        value = loss(*given, size)
        value.backward()
        found.append((value.item(), given[0].grad))
    (one, slope), (other, its) = found
    if abs(one - other) > 1e-2 or not torch.allclose(slope, its, atol=1e-4, rtol=0.05):
        raise RuntimeError(f"the losses are {one:g} and {other:g}: the arms do not compute the same.")
