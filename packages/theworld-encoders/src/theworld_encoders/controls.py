"""Controls: encoders that withhold one thing from a model, so that it shows what that thing is worth.

Each stands around another encoder, with its shapes: ``zeros:cosmos-predict2-vae``, or ``zeros`` around the default one.
Those that need no weights of that encoder neither hold nor read any.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from theworld_encoders.encoder import Encoder
from theworld_encoders.preprocess import normalise
from theworld_encoders.spec import EncoderSpec

SEED = 2718
"""Of what is drawn once: a permutation, random weights, registers, a stand-in. Rare: a test would draw ours from 0."""


class Control(Encoder):
    """Around another encoder, without its weights; its class is made by ``around``."""

    wrapped_class: ClassVar[type[Encoder]]

    def __init__(self, spec: EncoderSpec, config: dict[str, Any]) -> None:
        super().__init__(replace(spec, name=self.published.name), config)
        self.eval()

    @classmethod
    def from_config(cls, config: dict[str, Any], *, frame_size: int | None = None) -> "Control":
        with torch.device("meta"):  # for its numbers only
            wrapped = cls.wrapped_class.from_config(config, frame_size=frame_size)
        return cls(wrapped.spec, wrapped.config)

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path | None = None,
        *,
        revision: str | None = None,
        frame_size: int | None = None,
        dtype: torch.dtype | None = None,
        device: str | torch.device | None = None,
        **settings: Any,
    ) -> "Control":
        """At the published size without a ``source``; of that, only the configuration is read."""
        wrapped = cls.wrapped_class
        config = settings if source is None else wrapped.config_of(source, revision=revision, **settings)
        return cls.from_config(config, frame_size=frame_size).to(device=device, dtype=dtype)

    def reset_parameters(self) -> None:
        """There is nothing to fill."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles: no module has the class under its name, so it is made again."""
        return _blank, (type(self).__base__, self.wrapped_class, self.spec.name), self.__getstate__()


class Zeros(Control):
    """Zeros: the tokens are there and say nothing."""

    def encode(self, pixels: Float[Tensor, "m t 3 h w"]) -> Float[Tensor, "m tt r s c"]:
        return pixels.new_zeros(_shape(self.spec, pixels))


class Noise(Control):
    """Gaussian noise of unit scale, seeded by the item's pixels: it tells items apart, and nothing else about them.

    Unit scale needs no weights; projectors normalise each feature first, so another scale would change little.
    """

    def encode(self, pixels: Float[Tensor, "m t 3 h w"]) -> Float[Tensor, "m tt r s c"]:
        shape = _shape(self.spec, pixels)[1:]
        drawn = [torch.randn(shape, generator=torch.Generator().manual_seed(_digest(item))) for item in pixels]
        return torch.stack(drawn).to(pixels)


class Registers(Control):
    """One frame of features that training learns, the same for every item: room to think, and no world.

    The one control that is trained: ``freeze`` leaves the registers trainable.
    """

    def __init__(self, spec: EncoderSpec, config: dict[str, Any]) -> None:
        super().__init__(spec, config)
        _, rows, columns = spec.grid(1, spec.frame_size, spec.frame_size)
        self.registers = nn.Parameter(torch.empty(rows, columns, spec.width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        with _seeded():
            nn.init.normal_(self.registers)

    def freeze(self) -> "Registers":
        self.requires_grad_(True).eval()
        return self

    def encode(self, pixels: Float[Tensor, "m t 3 h w"]) -> Float[Tensor, "m tt r s c"]:
        items, frames, rows, columns, _ = _shape(self.spec, pixels)
        grid = nn.functional.adaptive_avg_pool2d(rearrange(self.registers, "r s c -> c r s"), (rows, columns))
        return rearrange(grid, "c r s -> 1 1 r s c").expand(items, frames, -1, -1, -1)


class Wrapping(Control):
    """Around an encoder that is held, as ``wrapped``: its weights keep their names behind that prefix."""

    def __init__(self, wrapped: Encoder) -> None:
        super().__init__(wrapped.spec, wrapped.config)
        self.wrapped = wrapped

    @classmethod
    def from_config(cls, config: dict[str, Any], *, frame_size: int | None = None) -> "Wrapping":
        return cls(cls.wrapped_class.from_config(config, frame_size=frame_size))

    def reset_parameters(self) -> None:
        self.wrapped.reset_parameters()


class RandomInit(Wrapping):
    """The same architecture with seeded random weights that were never trained; none are read."""

    @classmethod
    def from_config(cls, config: dict[str, Any], *, frame_size: int | None = None) -> "RandomInit":
        with _seeded():
            return cls(cls.wrapped_class.from_config(config, frame_size=frame_size))

    def reset_parameters(self) -> None:
        with _seeded():
            self.wrapped.reset_parameters()

    def encode(self, pixels: Float[Tensor, "m t 3 h w"]) -> Float[Tensor, "m tt r s c"]:
        return self.wrapped(pixels)


class Pretrained(Wrapping):
    """Around an encoder with its published weights."""

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path | None = None,
        *,
        revision: str | None = None,
        frame_size: int | None = None,
        dtype: torch.dtype | None = None,
        device: str | torch.device | None = None,
        **settings: Any,
    ) -> "Pretrained":
        return cls(
            cls.wrapped_class.from_pretrained(
                source, revision=revision, frame_size=frame_size, dtype=dtype, device=device, **settings
            )
        )


class OtherItem(Pretrained):
    """Features of another item: of the next one in the call that has this one's shape and other pixels.

    Where there is none, and always for an item alone, those of one fixed picture or clip of smooth noise.
    """

    def encode(self, pixels: Float[Tensor, "m t 3 h w"]) -> Float[Tensor, "m tt r s c"]:
        digests = [_digest(item) for item in pixels]
        count = len(digests)
        others = [
            next((j % count for j in range(i + 1, i + count) if digests[j % count] != digests[i]), count)
            for i in range(count)
        ]
        if count in others:
            pixels = torch.cat([pixels, self._stand_in(pixels)])
        return self.wrapped(pixels)[others]

    def _stand_in(self, like: Float[Tensor, "m t 3 h w"]) -> Float[Tensor, "1 t 3 h w"]:
        frames, _, height, width = like.shape[1:]
        coarse = torch.rand(1, 3, 2, 4, 4, generator=torch.Generator().manual_seed(SEED))
        smooth = nn.functional.interpolate(coarse, size=(frames, height, width), mode="trilinear")
        return normalise(rearrange(smooth, "m c t h w -> m t c h w"), self.spec).to(like)


class ShuffledSlots(Pretrained):
    """The places of every frame in another order, one fixed order for all: what is there stays, where it is goes."""

    def encode(self, pixels: Float[Tensor, "m t 3 h w"]) -> Float[Tensor, "m tt r s c"]:
        features = self.wrapped(pixels)
        rows, columns = features.shape[2:4]
        order = torch.randperm(rows * columns, generator=torch.Generator().manual_seed(SEED))
        places = rearrange(features, "m t r s c -> m t (r s) c")[:, :, order.to(features.device)]
        return rearrange(places, "m t (r s) c -> m t r s c", r=rows)


class ImageRepeated(Pretrained):
    """A clip's last frame, as often as the clip has frames: the picture stays, the motion goes."""

    def encode(self, pixels: Float[Tensor, "m t 3 h w"]) -> Float[Tensor, "m tt r s c"]:
        return self.wrapped(pixels[:, -1:].expand_as(pixels))


CONTROLS: dict[str, type[Control]] = {
    "image-repeated": ImageRepeated,
    "noise": Noise,
    "other-item": OtherItem,
    "random-init": RandomInit,
    "registers": Registers,
    "shuffled-slots": ShuffledSlots,
    "zeros": Zeros,
}


@cache
def around(control: type[Control], wrapped: type[Encoder], name: str) -> type[Control]:
    """The class of ``control`` around encoders of the class ``wrapped``, under the registry name ``name``."""
    published = replace(wrapped.published, name=name)
    own = {"published": published, "wrapped_class": wrapped, "__module__": __name__, "__doc__": control.__doc__}
    return type(control.__name__, (control,), own)


def _blank(control: type[Control], wrapped: type[Encoder], name: str) -> Control:
    made = around(control, wrapped, name)
    return made.__new__(made)


def _shape(spec: EncoderSpec, pixels: Float[Tensor, "m t 3 h w"]) -> tuple[int, int, int, int, int]:
    return len(pixels), *spec.grid(pixels.shape[1], *pixels.shape[3:]), spec.width


def _digest(item: Float[Tensor, "t 3 h w"]) -> int:
    """63 bits of the item's content: the same in every batch, process and machine, another one in another dtype."""
    content = item.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest()) >> 1


@contextmanager
def _seeded() -> Iterator[None]:
    """Draw from ``SEED``, and leave the global random state as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(SEED)  # torch.manual_seed would seed accelerators too
        yield
