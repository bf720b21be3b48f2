"""The contract is kept by an honest encoder, and each of its promises is missed where it is broken."""

import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from theworld_encoders import Encoder, EncoderSpec
from theworld_encoders.contract import PROMISES
from theworld_encoders.registry import ENTRY_POINT_GROUP, list_encoders
from theworld_encoders.testing import check_encoder
from theworld_encoders.testing_all import TINY_ENCODERS

PATCH = 8


class Honest(Encoder):
    """Patches of each frame and of its difference from the frame before, projected."""

    published = EncoderSpec(
        name="honest",
        kind="world",
        width=12,
        frame_size=16,
        spatial_stride=PATCH,
        temporal_stride=2,
        repo_id="nobody/nothing",
        revision="main",
        subfolder="",
        licence="none",
        gated=False,
    )

    def __init__(self, config: dict[str, Any], frame_size: int | None = None) -> None:
        config = {"width": 12, "scale": 0.5} | config
        size = frame_size or self.published.frame_size
        super().__init__(replace(self.published, width=config["width"], frame_size=size), config)
        self.project = nn.Conv2d(6, config["width"], PATCH, stride=PATCH)
        self.register_buffer("scale", torch.tensor(config["scale"]), persistent=False)
        self.freeze()

    @classmethod
    def from_config(cls, config: dict[str, Any], *, frame_size: int | None = None) -> "Honest":
        return cls(config, frame_size)

    @classmethod
    def from_pretrained(cls, source: str | Path | None = None, **kwargs: Any) -> "Honest":
        raise NotImplementedError

    def encode(self, pixels: Tensor) -> Tensor:
        every_second = pixels[:, ::2]
        before = torch.cat([every_second[:, :1], every_second[:, :-1]], dim=1)
        patches = torch.cat([every_second, every_second - before], dim=2)
        features = self.project(patches.flatten(0, 1)) * self.scale.to(patches.dtype)  # type: ignore[operator]
        return features.unflatten(0, patches.shape[:2]).permute(0, 1, 3, 4, 2)

    def reset_parameters(self) -> None:
        self.project.reset_parameters()
        with torch.no_grad():
            self.scale.copy_(torch.tensor(self.config["scale"]))  # type: ignore[operator]


class Vision(Honest):
    published = replace(Honest.published, kind="vision", temporal_stride=1)

    def encode(self, pixels: Tensor) -> Tensor:
        features = self.project(torch.cat([pixels, pixels], dim=2).flatten(0, 1))
        return features.unflatten(0, pixels.shape[:2]).permute(0, 1, 3, 4, 2)


class Uncopyable(Honest):
    def __init__(self, config: dict[str, Any], frame_size: int | None = None) -> None:
        super().__init__(config, frame_size)
        self.lock = threading.Lock()


class Transposed(Honest):
    def encode(self, pixels: Tensor) -> Tensor:
        return super().encode(pixels).transpose(1, 2)


class NotFinite(Honest):
    def encode(self, pixels: Tensor) -> Tensor:
        return super().encode(pixels) / 0


class AnyLength(Honest):
    def forward(self, pixels: Tensor) -> Tensor:
        return self.encode(pixels)


class AlwaysSingle(Honest):
    def encode(self, pixels: Tensor) -> Tensor:
        return super().encode(pixels).float()


class SingleInside(Honest):
    def encode(self, pixels: Tensor) -> Tensor:
        return super().encode(pixels.float()).to(pixels.dtype)


class Dropout(Honest):
    def encode(self, pixels: Tensor) -> Tensor:
        return nn.functional.dropout(super().encode(pixels), 0.1, training=True)


class BatchNorm(Honest):
    def encode(self, pixels: Tensor) -> Tensor:
        features = super().encode(pixels)
        return features - features.mean(0, keepdim=True) * 0.01 * (len(features) - 1)


class Ragged(Honest):
    def encode_items(self, items: Any) -> list[Tensor]:
        return super().encode_items(items)[::-1]


class Blind(Honest):
    def encode(self, pixels: Tensor) -> Tensor:
        return super().encode(pixels) * 0 + 1


class FrameByFrame(Honest):
    def encode(self, pixels: Tensor) -> Tensor:
        return torch.cat([super(FrameByFrame, self).encode(frame) for frame in pixels.split(1, dim=1)], dim=1)[:, ::2]


class Peeking(Vision):
    def encode(self, pixels: Tensor) -> Tensor:
        features = super().encode(pixels)
        return features + features.mean(1, keepdim=True)


class Trainable(Honest):
    def freeze(self) -> "Honest":
        self.eval()
        return self


class Training(Honest):
    def freeze(self) -> "Honest":
        self.requires_grad_(False)
        return self


class TrainedAround(Honest):
    def train(self, mode: bool = True) -> "Honest":
        nn.Module.train(self, mode)
        return self


class AlwaysGrad(Honest):
    def encode(self, pixels: Tensor) -> Tensor:
        with torch.enable_grad():
            return super().encode(pixels)


class Keeping(Honest):
    def encode(self, pixels: Tensor) -> Tensor:
        with torch.enable_grad():
            return super().encode(pixels).detach()


class Detached(Honest):
    def encode(self, pixels: Tensor) -> Tensor:
        return super().encode(pixels).detach()


class StoppedEarly(Honest):
    def encode(self, pixels: Tensor) -> Tensor:
        return super().encode(pixels.detach())


class OnProcessor(Honest):
    def __init__(self, config: dict[str, Any], frame_size: int | None = None) -> None:
        super().__init__(config, frame_size)
        self.bias = nn.Parameter(torch.zeros(config.get("width", 12), device="cpu"), requires_grad=False)


class LeftBehind(Honest):
    def __init__(self, config: dict[str, Any], frame_size: int | None = None) -> None:
        super().__init__(config, frame_size)
        self.mean = torch.zeros(3)


class HalfReset(Honest):
    def reset_parameters(self) -> None:
        self.scale.fill_(self.config["scale"])  # type: ignore[operator]


class BufferForgotten(Honest):
    def reset_parameters(self) -> None:
        self.project.reset_parameters()


class ConfigForgotten(Honest):
    def __init__(self, config: dict[str, Any], frame_size: int | None = None) -> None:
        super().__init__(config, frame_size)
        self.config = {"scale": self.config["scale"]}


class StateForgotten(Honest):
    def __init__(self, config: dict[str, Any], frame_size: int | None = None) -> None:
        super().__init__(config, frame_size)
        self.register_buffer("offset", torch.rand(()), persistent=False)

    def encode(self, pixels: Tensor) -> Tensor:
        return super().encode(pixels) + self.offset  # type: ignore[operator]

    def reset_parameters(self) -> None:
        super().reset_parameters()
        self.offset.copy_(torch.rand(()))  # type: ignore[operator]


class NoJson(Honest):
    def __init__(self, config: dict[str, Any], frame_size: int | None = None) -> None:
        super().__init__(config, frame_size)
        self.config = {**self.config, "dtype": torch.float32}


class Stateful(Honest):
    current: list[Tensor] = []

    def encode(self, pixels: Tensor) -> Tensor:
        type(self).current = [pixels]
        time.sleep(0.005)  # as long as a real encoder works: other threads come in between
        return super().encode(type(self).current[0])


class Drawing(Honest):
    def encode(self, pixels: Tensor) -> Tensor:
        torch.rand(())
        return super().encode(pixels)


class Counting(Honest):
    def __init__(self, config: dict[str, Any], frame_size: int | None = None) -> None:
        super().__init__(config, frame_size)
        self.register_buffer("calls", torch.tensor(0.0), persistent=False)

    def encode(self, pixels: Tensor) -> Tensor:
        self.calls += 1  # type: ignore[operator]
        return super().encode(pixels)

    def reset_parameters(self) -> None:
        super().reset_parameters()
        self.calls.zero_()  # type: ignore[operator]


class ThreadsLeft(Honest):
    def encode(self, pixels: Tensor) -> Tensor:
        torch.set_num_threads(torch.get_num_threads() % 2 + 1)
        return super().encode(pixels)


BROKEN: dict[type[Honest], str] = {
    Uncopyable: r"copies: the encoder raised TypeError: cannot pickle",
    Transposed: r"shape: features have shape \(2, 1, 2, 12\), the spec says \(1, 2, 2, 12\)",
    NotFinite: r"shape: \d+ features are not finite",
    AnyLength: r"shape: a clip of 2 frames is encoded, the spec says 1 \+ 2 \* n frames",
    AlwaysSingle: r"dtype: after .to\(torch.bfloat16\), features are of torch.float32",
    SingleInside: r"dtype: the encoder raised RuntimeError",
    Dropout: r"copies: features of a deep copy differ",
    BatchNorm: r"batch: item 0 of a batch of 3 differs from it alone by .* \(at most 1e-04 is allowed\)",
    Ragged: r"batch: encode_items gives an item other features",
    Blind: r"pixels: features of \d frames do not depend on the pixels",
    FrameByFrame: r"time: a world encoder's features do not see time's arrow",
    Peeking: r"time: a vision encoder's features of a frame depend on other frames",
    Trainable: r"frozen: project.weight requires gradients in a new encoder",
    Training: r"frozen: \['the encoder'\] is in training mode",
    TrainedAround: r"frozen: train\(\) puts a frozen encoder into training mode",
    AlwaysGrad: r"frozen: a frozen encoder's features require gradients",
    Keeping: r"frozen: a frozen encoder keeps \d+ tensors for a backward pass",
    Detached: r"gradients: features do not require gradients though parameters do",
    StoppedEarly: r"gradients: gradients do not reach the pixels",
    OnProcessor: r"device: bias lies on cpu though it was made under torch.device\('meta'\)",
    LeftBehind: r"device: the tensor mean is no buffer",
    HalfReset: r"device: reset_parameters\(\) leaves the parameter project.weight unfilled",
    BufferForgotten: r"device: reset_parameters\(\) leaves the buffer scale unfilled",
    StateForgotten: r"device: reset_parameters\(\) leaves the buffer offset unfilled",
    ConfigForgotten: r"saving: from_config\(config\) has .*width=12.*, the encoder .*width=16",
    NoJson: r"device: the encoder raised TypeError: Object of type dtype is not JSON serializable",
    Stateful: r"threads: with 4 threads at once, features differ from those of one",
    Drawing: r"no traces: a call changes torch's random state",
    Counting: r"no traces: a call changes its own calls",
    ThreadsLeft: r"no traces: a call changes the number of threads",
}


@pytest.mark.parametrize("honest", [Honest, Vision])
def test_an_honest_encoder_passes(honest: type[Honest]) -> None:
    check_encoder(honest.from_config({"width": 16}))
    check_encoder(honest.from_config({}).to(torch.bfloat16))


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.__name__)
def test_a_broken_promise_is_found_and_named(broken: type[Honest]) -> None:
    threads = torch.get_num_threads()
    try:
        with pytest.raises(AssertionError, match=BROKEN[broken]):
            check_encoder(broken.from_config({"width": 16} if broken is ConfigForgotten else {}))
    finally:
        torch.set_num_threads(threads)


def test_every_promise_has_an_encoder_that_breaks_it() -> None:
    # What does not repeat itself differs from its copy too: "repeats" is met below.
    assert {pattern.partition(":")[0] for pattern in BROKEN.values()} == set(PROMISES) - {"repeats"}
    with pytest.raises(AssertionError, match=r"repeats: two calls with the same pixels differ \(by up to "):
        check_encoder(Dropout.from_config({}), without=("copies",))


def test_promises_that_are_not_made_are_left_out() -> None:
    check_encoder(Blind.from_config({}), without=("pixels", "time", "gradients"))
    with pytest.raises(ValueError, match=r"no promise 'pixel'\. Known ones: copies, shape,"):
        check_encoder(Blind.from_config({}), without=("pixel",))


def test_the_encoder_is_left_as_it_was() -> None:
    encoder = Honest.from_config({})
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    check_encoder(encoder)
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


def test_every_encoder_of_ours_has_a_tiny_checkpoint() -> None:
    from importlib.metadata import entry_points

    plugins = {plugin.name for plugin in entry_points(group=ENTRY_POINT_GROUP)}
    assert sorted(TINY_ENCODERS) == sorted(set(list_encoders()) - plugins)
