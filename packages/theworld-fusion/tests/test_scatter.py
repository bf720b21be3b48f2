"""Features go where the slots are, in order, and nowhere else."""

import pytest
import torch

from theworld_fusion.scatter import scatter_features


def test_rows_with_different_numbers_of_slots() -> None:
    slots = torch.tensor([[0, 1, 1, 0, 0], [0, 0, 0, 0, 0], [1, 0, 0, 1, 1]], dtype=torch.bool)
    embeds, features = torch.randn(3, 5, 4), torch.randn(5, 4)
    out = scatter_features(embeds, slots, features)
    assert torch.equal(out[slots], features)
    assert torch.equal(out[~slots], embeds[~slots])
    assert torch.equal(out, embeds.masked_scatter(slots[..., None], features))


def test_no_slots_and_no_features() -> None:
    embeds = torch.randn(2, 3, 4)
    with pytest.raises(ValueError, match="the prompt has 0 slots for 1 features"):
        scatter_features(embeds, torch.zeros(2, 3, dtype=torch.bool), torch.randn(1, 4))


@pytest.mark.parametrize("count", [1, 3])
def test_a_wrong_count_is_refused(count: int) -> None:
    slots = torch.tensor([[True, True, False]])
    with pytest.raises(ValueError, match=f"the prompt has 2 slots for {count} features. Build"):
        scatter_features(torch.randn(1, 3, 4), slots, torch.randn(count, 4))


def test_widths_must_match() -> None:
    with pytest.raises(ValueError, match="features are 5 wide, embeddings 4"):
        scatter_features(torch.randn(1, 3, 4), torch.ones(1, 3, dtype=torch.bool), torch.randn(3, 5))


def test_gradients_reach_features_and_untouched_embeddings_only() -> None:
    slots = torch.tensor([[True, False, True]])
    embeds = torch.randn(1, 3, 2, requires_grad=True)
    features = torch.randn(2, 2, requires_grad=True)
    (scatter_features(embeds, slots, features) * torch.tensor([[[1.0], [2.0], [3.0]]])).sum().backward()
    assert embeds.grad is not None
    assert features.grad is not None
    assert embeds.grad[0, :, 0].tolist() == [0.0, 2.0, 0.0]
    assert features.grad[:, 0].tolist() == [1.0, 3.0]
