"""The mask of rows that hold several sequences, as a matrix: every entry, on full and on sliding layers."""

import pytest
import torch
from torch.nn.attention.flex_attention import create_mask
from transformers import Gemma3TextConfig

from theworld_fusion.packing import packed_mask_function, packed_masks

# A beginning of three tokens, the last two of a picture; two that go on from it; another sequence; padding.
VISIBLE_UNTIL = torch.tensor([[7, 7, 7, 5, 5, 7, 7, 9, 9, 10]])
POSITIONS = torch.tensor([[0, 1, 2, 3, 4, 3, 4, 0, 1, 0]])
TYPES = torch.tensor([[0, 1, 1, 0, 0, 0, 0, 0, 0, 0]])
FULL = """
1.........
111.......
111.......
1111......
11111.....
111..1....
111..11...
.......1..
.......11.
.........1
"""
WINDOW = 3
SLIDING = """
1.........
111.......
111.......
.111......
..111.....
.11..1....
..1..11...
.......1..
.......11.
.........1
"""


def config(implementation: str) -> Gemma3TextConfig:
    made = Gemma3TextConfig(sliding_window=WINDOW)
    made._attn_implementation = implementation
    return made


def matrix(text: str) -> torch.Tensor:
    return torch.tensor([[entry == "1" for entry in line] for line in text.split()])


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_every_entry(implementation: str) -> None:
    # A second row whose tokens come in another order: rows do not mix.
    both = [torch.cat([tensor, tensor.clone()]) for tensor in (VISIBLE_UNTIL, POSITIONS, TYPES)]
    both[0][1], both[1][1], both[2][1] = 10, torch.arange(10), 0
    masks = packed_masks(config(implementation), *both)
    for kind, wanted in (("full_attention", FULL), ("sliding_attention", SLIDING)):
        seen = masks[kind] if implementation == "sdpa" else masks[kind] == 0
        assert seen.shape == (2, 1, 10, 10)
        assert torch.equal(seen[0, 0], matrix(wanted)), kind
        plain = torch.ones(10, 10).tril().bool()
        assert torch.equal(seen[1, 0], plain if kind == "full_attention" else plain.triu(1 - WINDOW)), kind


def test_flex_attention_takes_the_function() -> None:
    sees = packed_mask_function(VISIBLE_UNTIL, TYPES)
    # The check of shapes hides the function's arguments, which are counted here.
    mask = create_mask(lambda row, head, query, key: sees(row, head, query, key), 1, 1, 10, 10, device="cpu")
    assert torch.equal(mask[0, 0], matrix(FULL))


def test_without_types_nothing_is_seen_ahead() -> None:
    mask = packed_masks(config("sdpa"), VISIBLE_UNTIL, POSITIONS)["full_attention"]
    assert torch.equal(mask[0, 0], matrix(FULL).tril())


def test_attention_that_takes_no_mask_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'flash_attention_2' takes none.*attn_implementation as one of: eager, sdpa"):
        packed_masks(config("flash_attention_2"), VISIBLE_UNTIL, POSITIONS)
