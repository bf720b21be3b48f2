"""Counting without weights."""

from dataclasses import replace

import pytest

from theworld_encoders import spec_of

COSMOS = spec_of("cosmos-predict2-vae")


@pytest.mark.parametrize(
    ("frames", "fitted", "latent"), [(1, 1, 1), (2, 5, 2), (5, 5, 2), (6, 9, 3), (9, 9, 3), (13, 13, 4), (61, 61, 16)]
)
def test_frame_rule(frames: int, fitted: int, latent: int) -> None:
    assert COSMOS.fit_frames(frames) == fitted
    assert COSMOS.feature_frames(frames) == latent


def test_one_picture_at_the_published_size_has_784_latents() -> None:
    assert COSMOS.frame_size == 224
    assert COSMOS.grid(1, 224, 224) == (1, 28, 28)
    assert COSMOS.num_tokens(1, 224, 224) == 784
    assert COSMOS.num_tokens(9, 224, 256) == 3 * 28 * 32


@pytest.mark.parametrize(("height", "width"), [(220, 224), (224, 7), (0, 224)])
def test_odd_sizes_are_refused(height: int, width: int) -> None:
    with pytest.raises(ValueError, match=f"{height} x {width} pixels. Use sides that are multiples of 8"):
        COSMOS.grid(1, height, width)


def test_a_rule_without_a_lone_first_frame() -> None:
    spec = replace(COSMOS, temporal_stride=2, first_frame_alone=False)
    assert [spec.fit_frames(frames) for frames in (1, 2, 3, 16)] == [2, 2, 4, 16]
    assert [spec.feature_frames(frames) for frames in (1, 2, 3, 16)] == [1, 1, 2, 8]
    assert (COSMOS.frame_rule, spec.frame_rule) == ("1 + 4 * n frames", "2 * n frames")


@pytest.mark.parametrize("frames", [1, 4, 16])
def test_most_frames_is_the_inverse(frames: int) -> None:
    for spec in (COSMOS, replace(COSMOS, first_frame_alone=False)):
        assert spec.feature_frames(spec.most_frames(frames)) == frames
        assert spec.feature_frames(spec.most_frames(frames) + 1) == frames + 1


def test_edges_that_are_dropped() -> None:
    spec = replace(COSMOS, spatial_stride=14, drops_edges=True)
    assert spec.grid(1, 384, 378) == (1, 27, 27)
    with pytest.raises(ValueError, match=r"13 x 384 pixels\. Use sides of at least 14"):
        spec.grid(1, 13, 384)


def test_frames_that_are_predicted() -> None:
    spec = replace(COSMOS, temporal_stride=2, first_frame_alone=False, future_frames=3)
    assert [spec.feature_frames(frames) for frames in (1, 2, 3, 16)] == [4, 4, 5, 11]
    assert spec.most_frames(5) == 4
    assert spec.num_tokens(4, 16, 16) == 5 * 4


@pytest.mark.parametrize("frames", [0, -3])
def test_empty_clips_are_refused(frames: int) -> None:
    with pytest.raises(ValueError, match=f"{frames} frames is empty"):
        COSMOS.fit_frames(frames)
