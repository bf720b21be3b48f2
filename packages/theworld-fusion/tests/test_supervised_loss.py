"""The loss at supervised positions alone: what transformers gives from all logits, in the memory of one chunk."""

import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers.loss.loss_utils import ForCausalLMLoss

from theworld_fusion.loss import BLOCK, causal_lm_loss, supervised
from theworld_fusion.loss import supervised_loss as loss_of_rows
from theworld_tokens import IGNORE_INDEX

ROWS, LENGTH, WIDTH, VOCABULARY = 3, 12, 16, 50


def targets(kind: str) -> Tensor:
    """Labels of three rows: on several answers and with padding on the left, on every position, on one, or on none."""
    everywhere = torch.randint(VOCABULARY, (ROWS, LENGTH), generator=torch.Generator().manual_seed(1))
    labelled = torch.zeros(ROWS, LENGTH, dtype=torch.bool)
    match kind:
        case "answers":
            labelled[0, 2:5] = labelled[0, 8:] = labelled[1, -2:] = labelled[2, 0] = True  # nothing predicts the first
        case "all":
            labelled[:] = True
        case "one":
            labelled[1, 5] = True
    return everywhere.masked_fill(~labelled, IGNORE_INDEX)


def problem(dtype: torch.dtype = torch.float32, *, frozen: bool = False) -> tuple[Tensor, nn.Linear]:
    """Hidden states and a head whose logits differ by tens."""
    generator = torch.Generator().manual_seed(0)
    head = nn.Linear(WIDTH, VOCABULARY, bias=False)
    head.weight.data = (torch.randn(VOCABULARY, WIDTH, generator=generator) * 2).to(dtype)
    hidden = torch.randn(ROWS, LENGTH, WIDTH, generator=generator).to(dtype).requires_grad_()
    return hidden, head.requires_grad_(not frozen)


def supervised_loss(
    hidden: Tensor, labels: Tensor, head: Callable[[Tensor], Tensor], shift_labels: Tensor | None = None, **kwargs: Any
) -> Tensor:
    """As the model has it from hidden states of all positions."""
    places, words = supervised(labels, hidden.shape[:2], shift_labels)
    return loss_of_rows(hidden.flatten(0, 1)[places], words, head, **kwargs)


def stock(hidden: Tensor, labels: Tensor, head: Callable[[Tensor], Tensor], **kwargs: Any) -> Tensor:
    """transformers' loss, from the logits of every position."""
    return ForCausalLMLoss(head(hidden), labels, VOCABULARY, **kwargs)


def exact(hidden: Tensor, labels: Tensor, head: nn.Linear) -> list[Tensor]:
    """Mean loss and gradients in float64, written out."""
    hidden, weight = (value.detach().double().requires_grad_() for value in (hidden, head.weight))
    chances = (hidden @ weight.T)[:, :-1].log_softmax(-1)
    wanted = labels[:, 1:]
    losses = -chances.gather(-1, wanted.clamp(min=0).unsqueeze(-1)).squeeze(-1)[wanted != IGNORE_INDEX]
    return outcome(losses.mean(), hidden, weight)


def outcome(loss: Tensor, *leaves: Tensor) -> list[Tensor]:
    return [loss.detach(), *torch.autograd.grad(loss, leaves)]


def error(found: list[Tensor], wanted: list[Tensor]) -> list[float]:
    """Of loss and gradients, each relative to its norm."""
    return [
        float((one.double() - other).norm() / other.norm().clamp(min=1e-12))
        for one, other in zip(found, wanted, strict=True)
    ]


@pytest.mark.parametrize("chunk", [1, 3, 5, 18, 1000])
@pytest.mark.parametrize("kind", ["answers", "all", "one"])
def test_in_float32_it_is_the_exact_loss_with_its_gradients(kind: str, chunk: int) -> None:
    hidden, head = problem()
    found = outcome(supervised_loss(hidden, targets(kind), head, chunk=chunk), hidden, head.weight)
    assert max(error(found, exact(hidden, targets(kind), head))) < 1e-6
    for one, other in zip(found, outcome(stock(hidden, targets(kind), head), hidden, head.weight), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("chunk", [3, 1000])
@pytest.mark.parametrize("autocast", [False, True])
def test_in_bfloat16_it_is_as_exact_as_transformers_own(autocast: bool, chunk: int) -> None:
    hidden, head = problem(torch.float32 if autocast else torch.bfloat16)
    wanted = exact(hidden, targets("all"), head)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        ours, theirs = (
            outcome(loss(hidden, targets("all"), head), hidden, head.weight)
            for loss in (lambda *args: supervised_loss(*args, chunk=chunk), stock)
        )
    assert [value.dtype for value in ours] == [value.dtype for value in theirs]
    assert ours[0].dtype == torch.float32
    assert 1e-4 < max(error(theirs, wanted)) < 2e-2  # a bfloat16 has eight bits
    # Each of a head's chunks adds its gradient in bfloat16.
    for found, limit, allowed in zip(error(ours, wanted), error(theirs, wanted), (1.01, 1.01, 3), strict=True):
        assert found <= allowed * limit + 1e-5


def test_logits_far_from_zero_lose_no_digits() -> None:
    hidden, head = problem()
    shifted = supervised_loss(hidden, targets("all"), lambda rows: head(rows) + 1024)
    torch.testing.assert_close(shifted, supervised_loss(hidden, targets("all"), head), rtol=1e-4, atol=0)
    certain = nn.functional.one_hot(targets("all")[:, 1:], VOCABULARY).float() * 1e4
    states = nn.functional.pad(certain, (0, 0, 0, 1)).requires_grad_()
    loss = supervised_loss(states, targets("all"), nn.Identity())
    assert loss == 0
    assert not torch.autograd.grad(loss, states)[0].any()


@pytest.mark.parametrize("chunk", [3, 1000])
def test_labels_that_are_shifted_already_are_taken_as_they_are(chunk: int) -> None:
    hidden, head = problem()
    labels = targets("answers")
    shifted = nn.functional.pad(labels, (0, 1), value=IGNORE_INDEX)[:, 1:].contiguous()
    unrelated = torch.zeros_like(labels)
    found = supervised_loss(hidden, unrelated, head, shift_labels=shifted, chunk=chunk)
    assert torch.equal(found, supervised_loss(hidden, labels, head, chunk=chunk))
    torch.testing.assert_close(found, stock(hidden, unrelated, head, shift_labels=shifted))


@pytest.mark.parametrize("items", [7, torch.tensor(7)])
def test_the_sum_is_divided_by_the_number_of_items_of_the_step(items: Any) -> None:
    hidden, head = problem()
    found = supervised_loss(hidden, targets("answers"), head, num_items_in_batch=items)
    torch.testing.assert_close(found, stock(hidden, targets("answers"), head, num_items_in_batch=items))


@pytest.mark.parametrize("items", [None, 0, 5])
@pytest.mark.parametrize("frozen", [False, True])
def test_without_labels_loss_and_gradients_are_zero_and_connected(frozen: bool, items: int | None) -> None:
    hidden, head = problem(frozen=frozen)
    loss = supervised_loss(hidden, targets("none"), head, num_items_in_batch=items)
    loss.backward()
    assert loss == 0
    assert hidden.grad is not None
    assert not hidden.grad.any()
    assert head.weight.grad is None if frozen else not head.weight.grad.any()


@pytest.mark.parametrize("chunk", [3, 1000])
def test_a_frozen_head_costs_no_gradient_of_it(chunk: int) -> None:
    hidden, head = problem(frozen=True)
    with Watch(head) as watch:
        supervised_loss(hidden, targets("answers"), head, chunk=chunk).backward()
    assert head.weight.grad is None
    assert (VOCABULARY, WIDTH) not in watch.shapes
    assert "bmm" not in watch.products
    pieces = -(-9 // chunk)
    assert watch.products["mm"] == (3 * pieces if pieces > 1 else 2)


@pytest.mark.parametrize("chunk", [3, 1000])
def test_a_head_tied_to_the_embedding_has_both_gradients(chunk: int) -> None:
    def gradient(loss: Callable[..., Tensor]) -> Tensor:
        _, head = problem()
        ids = targets("all")
        hidden = torch.tanh(nn.functional.embedding(ids, head.weight))
        return torch.autograd.grad(loss(hidden, targets("answers"), head), head.weight)[0]

    found = gradient(lambda *args: supervised_loss(*args, chunk=chunk))
    torch.testing.assert_close(found, gradient(stock), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("chunk", [3, 1000])
def test_the_head_may_be_more_than_a_matrix(chunk: int) -> None:
    hidden, head = problem()

    def capped(states: Tensor) -> Tensor:
        return 5 * torch.tanh(head(states) / 5)

    found = outcome(supervised_loss(hidden, targets("answers"), capped, chunk=chunk), hidden, head.weight)
    wanted = outcome(stock(hidden, targets("answers"), capped), hidden, head.weight)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def test_without_gradients_it_is_the_same_loss() -> None:
    hidden, head = problem()
    with torch.no_grad():
        found = supervised_loss(hidden, targets("answers"), head, chunk=3)
    assert not found.requires_grad
    assert torch.equal(found, supervised_loss(hidden, targets("answers"), head, chunk=3))


@pytest.mark.parametrize("shifted", [False, True])
def test_labels_of_another_length_are_refused(shifted: bool) -> None:
    hidden, head = problem()
    labels = targets("all")[:, 1:]
    with pytest.raises(ValueError, match=r"shape \(3, 11\), and the prompt \(3, 12\)\. Give one label"):
        supervised_loss(hidden, labels, head, shift_labels=labels if shifted else None)


PRODUCTS = ("mm", "addmm", "bmm", "baddbmm")


class Watch(TorchDispatchMode):
    """What operations make: the shapes, the most bytes alive at once, products with weights, waits for a device."""

    def __init__(self, module: nn.Module | None = None) -> None:
        super().__init__()
        self.weights = {value.untyped_storage().data_ptr() for value in (module or nn.Module()).parameters()}
        self.products, self.waits = Counter[str](), Counter[str]()
        self.shapes: set[tuple[int, ...]] = set()
        self.alive = self.peak = self.biggest = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        given = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        if name in PRODUCTS and any(value.untyped_storage().data_ptr() in self.weights for value in given):
            self.products[name] += 1
        if name in ("nonzero", "_local_scalar_dense"):
            self.waits[name] += 1
        result = func(*args, **kwargs or {})
        before = {value.untyped_storage()._cdata for value in given}
        for value in tree_leaves(result):
            if isinstance(value, Tensor) and value.untyped_storage()._cdata not in before | self.known:
                self._made(value)
        return result

    def _made(self, value: Tensor) -> None:
        storage = value.untyped_storage()
        self.shapes.add(tuple(value.shape))
        self.biggest = max(self.biggest, value.numel())
        self.alive += storage.nbytes()
        self.peak = max(self.peak, self.alive)
        self.known.add(storage._cdata)
        weakref.finalize(storage, self._gone, storage._cdata, storage.nbytes())

    def _gone(self, key: int, size: int) -> None:
        self.alive -= size
        self.known.discard(key)


BIG = 262_208
"""Gemma 3's vocabulary."""


@contextmanager
def narrow(dtype: torch.dtype, labelled: int) -> Iterator[tuple[Tensor, Tensor, nn.Linear]]:
    """64 positions of a narrow model with Gemma's vocabulary and a frozen head."""
    head = nn.Linear(8, BIG, bias=False, dtype=dtype).requires_grad_(False)
    labels = torch.arange(64).unsqueeze(0) * 4096
    labels[:, : 64 - labelled] = IGNORE_INDEX
    yield torch.randn(1, 64, 8, dtype=dtype, requires_grad=True), labels, head


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("labelled", "chunk"), [(5, 16), (63, 16), (63, 20)])
def test_memory_is_that_of_one_chunk(labelled: int, chunk: int, dtype: torch.dtype) -> None:
    with narrow(dtype, labelled) as (hidden, labels, head), Watch() as watch:
        supervised_loss(hidden, labels, head, chunk=chunk).backward()
    rows = min(labelled, chunk)
    assert watch.biggest == rows * BIG
    wanted = 2 * dtype.itemsize * rows * BIG  # logits and their gradients
    if dtype != torch.float32:
        wanted += 4 * min(rows, BLOCK) * BIG
    assert 0.95 * wanted < watch.peak < 1.02 * wanted
    assert watch.waits == {"nonzero": 1}


def test_the_watch_sees_what_all_logits_take() -> None:
    with narrow(torch.bfloat16, 5) as (hidden, labels, head), Watch() as watch:
        causal_lm_loss(head(hidden), labels, BIG).backward()
    assert watch.biggest == 64 * BIG
    assert watch.peak > 10 * 64 * BIG
