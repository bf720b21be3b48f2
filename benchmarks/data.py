"""What the host does for a sample: where its labels are, and whether any picture is resized inside ``forward``."""

import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.counters import count
from benchmarks.models import build, geometry, picture, prompt
from benchmarks.row import Row, counted
from benchmarks.timing import medians, ratio
from theworld_tokens import GEMMA3, IGNORE_INDEX
from theworld_train.data.collator import Span, labels_of

LENGTH, TURN, REPEATS = 2000, 100, 101
"""Tokens of the conversation and of each turn; every second turn is an answer."""
RESIZES = ("upsample", "_upsample", "grid_sampler")


def counted_rows() -> Iterator[Row]:
    yield counted("data.forward_host", resized_in_forward(), geometry("deep"))


def timed_rows(full: bool) -> Iterator[Row]:
    ids, spans, offsets = conversation()
    arms = {"ours": lambda: labels_of(ids, spans, offsets), "predecessor": lambda: by_token(ids)}
    if not torch.equal(arms["ours"](), arms["predecessor"]()):
        raise RuntimeError("the two masks differ: the arms do not compute the same.")
    times = {name: [seconds(work) for _ in range(REPEATS)] for name, work in arms.items()}
    about: dict[str, Any] = {"geometry": {"tokens": LENGTH, "turns": LENGTH // TURN}, "dtype": "int64"}
    milliseconds = ratio(times["ours"], [1e-3] * REPEATS)
    yield Row(name="data.labels", **milliseconds, arms=medians(times, 1e-3), repeats=REPEATS, **about)


def conversation() -> tuple[Tensor, list[Span], np.ndarray]:
    """Ids ``[l]``; the answers' characters, where each token has four; and the tokens' ``[l, 2]``."""
    ids = torch.arange(LENGTH) % 1000 + 1000
    ids[::TURN], ids[TURN - 1 :: TURN] = GEMMA3.start_of_turn, GEMMA3.end_of_turn
    ids[1::TURN] = torch.arange(LENGTH // TURN) % 2  # whose turn it is: 1 is the model's
    starts = 4 * np.arange(LENGTH)
    offsets = np.stack([starts, starts + 4], axis=1)
    answers = range(TURN, LENGTH, 2 * TURN)
    return ids, [(4 * (first + 2), 4 * (first + TURN)) for first in answers], offsets


def by_token(ids: Tensor) -> Tensor:
    """Token by token, as the predecessor did: what no answer holds is masked."""
    labels, tokens, answering = ids.tolist(), ids.tolist(), False
    for place, token in enumerate(tokens):
        if token == GEMMA3.start_of_turn:
            answering = False
        keep = answering
        if place and tokens[place - 1] == GEMMA3.start_of_turn:
            answering = token == 1
        if token == GEMMA3.end_of_turn:
            answering = False
        if not keep:
            labels[place] = IGNORE_INDEX
    return torch.tensor(labels)


def seconds(work: Callable[[], Any]) -> float:
    """Processor time of one call, out of a hundred."""
    start = time.process_time()
    for _ in range(100):
        work()
    return (time.process_time() - start) / 100


def resized_in_forward() -> int:
    """Pictures and pixels that a prefill resizes."""
    model = build("deep").eval()
    with patch.object(Image.Image, "resize", side_effect=AssertionError("a picture was resized inside forward")):
        found = count(lambda: model(**prompt(model), **picture(model), logits_to_keep=1)).operators
    return sum(number for name, number in found.items() if name.startswith(RESIZES))
