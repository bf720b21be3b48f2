"""World features to world tokens."""

from typing import Any

import pytest
import torch

from theworld_fusion import TheWorldConfig
from theworld_fusion.projector import WorldProjector

WIDTH, MODEL = 4, 32


def make(**overrides: Any) -> WorldProjector:
    text = {"hidden_size": MODEL, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    config = TheWorldConfig(text_config=text, **{"world_tokens_per_item": 16, **overrides})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        projector = WorldProjector(config, WIDTH)
        projector.reset_parameters()
    return projector


def features(frames: int, side: int = 8) -> torch.Tensor:
    return torch.randn(2, frames, side, side, WIDTH, generator=torch.Generator().manual_seed(frames))


@pytest.mark.parametrize("kind", ["mlp", "linear"])
@pytest.mark.parametrize("patch", [1, 2])
@pytest.mark.parametrize(("frames", "slots"), [(1, 16), (2, 8), (4, 16), (16, 16)])
def test_any_grid_becomes_the_slots_of_its_frames(kind: str, patch: int, frames: int, slots: int) -> None:
    tokens = make(world_projector=kind, world_patch=patch)(features(frames))
    assert tokens.shape == (2, slots, MODEL)
    assert tokens.isfinite().all()


def test_what_a_frame_has_in_common_enters_by_its_own_layer_and_is_not_lost() -> None:
    projector, clip = make(), features(2)
    lifted = clip + torch.tensor([1.0, -2.0, 3.0, 0.5])
    torch.testing.assert_close(projector(lifted), projector(clip), atol=1e-5, rtol=1e-5)  # it starts at zero
    torch.nn.init.normal_(projector.mean.weight)
    assert (projector(lifted) - projector(clip)).abs().max() > 0.1


def test_the_layer_of_the_mean_learns_from_its_first_step() -> None:
    projector = make()
    projector(features(2)).square().mul(torch.arange(float(MODEL))).sum().backward()
    assert projector.mean.weight.grad is not None
    assert projector.mean.weight.grad.abs().max() > 0


def test_tokens_start_at_the_given_scale() -> None:
    projector = make()
    projector.match_scale(3.0)
    rms = projector(features(4)).square().mean(-1).sqrt()
    torch.testing.assert_close(rms, torch.full_like(rms, 3.0), atol=1e-3, rtol=0)


def test_same_content_at_another_time_or_place_is_another_token() -> None:
    projector = make(world_projector="linear")
    still = features(1).expand(-1, 4, -1, -1, -1)
    first, second, *_ = projector(still).unflatten(1, (4, 4)).unbind(1)
    assert (first - second).abs().max() > 0.1
    flat = torch.zeros(1, 1, 8, 8, WIDTH)
    tokens = projector(flat)[0]
    assert torch.cdist(tokens, tokens).fill_diagonal_(1).min() > 0.1


def test_too_many_frames_name_both_numbers() -> None:
    with pytest.raises(ValueError, match="an item has 5 latent frames, the model tells 4 apart"):
        make(max_world_frames=4)(features(5))
