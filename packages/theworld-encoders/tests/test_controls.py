"""Controls: each withholds what it says, around any encoder, and those without weights read none."""

from pathlib import Path

import pytest
import torch

from theworld_encoders import Encoder, list_controls, load_encoder, spec_of
from theworld_encoders.registry import DEFAULT_ENCODER, encoder_class
from theworld_encoders.testing import TINY_FRAME_SIZE, check_encoder
from theworld_encoders.testing_all import TINY_ENCODERS

GIVEN_UP: dict[str, set[str]] = {
    "image-repeated": set(),
    "noise": {"gradients"},
    "other-item": {"batch", "pixels", "time", "gradients"},
    "random-init": set(),
    "registers": {"pixels", "time", "frozen", "gradients"},
    "shuffled-slots": set(),
    "zeros": {"pixels", "time", "gradients"},
}
"""Promises of an encoder that a control breaks on purpose."""
WEIGHTLESS = ("noise", "random-init", "registers", "zeros")
NAMES = [f"{control}:{encoder}" for encoder in TINY_ENCODERS for control in GIVEN_UP]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("tiny")
    return {name: make(root / name) for name, make in TINY_ENCODERS.items()}


def load(name: str, folders: dict[str, Path]) -> Encoder:
    encoder = name.partition(":")[2] or (DEFAULT_ENCODER if name in GIVEN_UP else name)
    return load_encoder(name, folders[encoder], frame_size=TINY_FRAME_SIZE)


def clips(encoder: Encoder, items: int = 3) -> torch.Tensor:
    frames, size = encoder.spec.fit_frames(5), encoder.spec.frame_size
    return torch.rand(items, frames, 3, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_all_are_covered_here() -> None:
    assert list(GIVEN_UP) == list_controls()


@pytest.mark.parametrize("name", NAMES)
def test_contract(folders: dict[str, Path], name: str) -> None:
    control, _, encoder = name.partition(":")
    given_up = GIVEN_UP[control]
    if control in ("image-repeated", "noise") and spec_of(encoder).kind == "vision":  # they see all frames
        given_up = {*given_up, "time"}
    check_encoder(load(name, folders), without=given_up)


@pytest.mark.parametrize("name", NAMES)
def test_a_spec_is_the_encoders_under_the_controls_name(name: str) -> None:
    wrapped = spec_of(name.partition(":")[2])
    differing = {key for key in wrapped.__slots__ if getattr(spec_of(name), key) != getattr(wrapped, key)}
    assert differing == {"name"}
    assert spec_of(name).name == name


@pytest.mark.parametrize("control", GIVEN_UP)
def test_alone_it_is_around_the_default_encoder(folders: dict[str, Path], control: str) -> None:
    alone, named = load(control, folders), load(f"{control}:{DEFAULT_ENCODER}", folders)
    assert (alone.spec.name, named.spec.name) == (control, f"{control}:{DEFAULT_ENCODER}")
    assert torch.equal(alone(clips(alone)), named(clips(alone)))


@pytest.mark.parametrize("control", WEIGHTLESS)
def test_without_weights_no_checkpoint_is_read(
    folders: dict[str, Path], control: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = encoder_class(control).from_config({}).spec if control == "zeros" else None

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("weights were read")

    monkeypatch.setattr("theworld_encoders.checkpoint.safe_open", refuse)
    monkeypatch.setattr("theworld_encoders.checkpoint._download", refuse)
    assert load(control, folders).spec.frame_size == TINY_FRAME_SIZE
    if published is not None:
        assert load_encoder(control).spec == published == spec_of(control)


@pytest.mark.parametrize("control", sorted(set(GIVEN_UP) - set(WEIGHTLESS)))
def test_the_wrapped_weights_keep_their_names(folders: dict[str, Path], control: str) -> None:
    wrapped = load(DEFAULT_ENCODER, folders).state_dict()
    held = load(control, folders).state_dict()
    assert set(held) == {f"wrapped.{name}" for name in wrapped}
    assert all(torch.equal(held[f"wrapped.{name}"], tensor) for name, tensor in wrapped.items())


@pytest.mark.parametrize("control", ["zeros", "noise"])
def test_no_weights_are_held(folders: dict[str, Path], control: str) -> None:
    assert not load(control, folders).state_dict()


def test_zeros(folders: dict[str, Path]) -> None:
    assert not load("zeros", folders)(clips(load("zeros", folders))).any()


def test_noise_has_unit_scale_and_tells_items_apart(folders: dict[str, Path]) -> None:
    control = load("noise", folders)
    features = control(clips(control))
    torch.testing.assert_close(features.std(), torch.tensor(1.0), atol=0.02, rtol=0)
    torch.testing.assert_close(features.mean(), torch.tensor(0.0), atol=0.02, rtol=0)
    assert not torch.equal(features[0], features[1])


def test_other_item_gives_those_of_the_next_one_with_other_pixels(folders: dict[str, Path]) -> None:
    control, encoder = load("other-item", folders), load(DEFAULT_ENCODER, folders)
    one, two, three = items = clips(control)
    own = encoder(items)
    torch.testing.assert_close(control(items), own[[1, 2, 0]])
    # One clip is asked about twice: its twin is no other item.
    torch.testing.assert_close(control(torch.stack([one, one, two])), own[[1, 1, 0]])
    alone = control(three[None])
    assert torch.equal(alone, control(one[None]))
    assert torch.equal(alone[0], control(torch.stack([two, two]))[0])
    assert all((alone[0] - features).abs().max() > 0.1 for features in own)


def test_shuffled_slots_keep_every_feature(folders: dict[str, Path]) -> None:
    control, encoder = load("shuffled-slots", folders), load(DEFAULT_ENCODER, folders)
    own, shuffled = (each(clips(control)).flatten(2, 3) for each in (encoder, control))  # [m, t, places, c]
    assert not torch.equal(own, shuffled)
    orders = {
        tuple((shuffled[item, frame, :, None] == own[item, frame]).all(-1).int().argmax(-1).tolist())
        for item in range(3)
        for frame in range(own.shape[1])
    }
    [order] = orders
    assert sorted(order) == list(range(own.shape[2]))
    assert torch.equal(own[:, :, list(order)], shuffled)


def test_image_repeated_sees_the_last_frame_alone(folders: dict[str, Path]) -> None:
    control, encoder = load("image-repeated", folders), load(DEFAULT_ENCODER, folders)
    items = clips(control)
    still = items[:, -1:].repeat(1, items.shape[1], 1, 1, 1)
    assert torch.equal(control(items), encoder(still))
    assert torch.equal(control(items), control(still))
    assert not torch.equal(control(items), encoder(items))


def test_random_init_is_seeded_and_never_loaded(folders: dict[str, Path]) -> None:
    state = torch.get_rng_state()
    control, again = load("random-init", folders), load("random-init", folders)
    assert torch.equal(torch.get_rng_state(), state)
    loaded = load(DEFAULT_ENCODER, folders).state_dict()
    for name, tensor in control.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
        if name.endswith("weight"):
            assert not torch.equal(tensor, loaded[name.removeprefix("wrapped.")])


def test_registers_are_the_one_thing_that_is_trained(folders: dict[str, Path]) -> None:
    control = load("registers", folders)
    [parameter] = control.freeze().parameters()
    features = control(clips(control))
    assert all(torch.equal(features[0, 0], frame) for item in features for frame in item)
    features.sum().backward()
    assert parameter.grad is not None
    assert parameter.grad.all()
    assert torch.equal(load("registers", folders).state_dict()["registers"], parameter)
    for other in set(GIVEN_UP) - {"registers"}:
        assert not any(parameter.requires_grad for parameter in load(other, folders).parameters())


def test_registers_fit_other_sizes(folders: dict[str, Path]) -> None:
    control = load("registers", folders)
    side = 2 * control.spec.frame_size
    assert control(torch.zeros(1, 1, 3, side, side)).shape[1:] == (
        *control.spec.grid(1, side, side),
        control.spec.width,
    )
