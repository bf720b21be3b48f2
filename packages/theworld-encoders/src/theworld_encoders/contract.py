"""The contract that every encoder keeps, promise by promise; ``theworld_encoders.testing.check_encoder`` runs it."""

import json
import pickle
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from theworld_encoders.encoder import Encoder

TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""How far features of one item may differ between batches and threads, as a part of their largest magnitude."""

NUM_THREADS = 4


@dataclass(frozen=True, kw_only=True)
class Subject:
    """An encoder under test, and items of the two shortest lengths that its frame rule allows."""

    encoder: Encoder
    image: Tensor
    clips: list[Tensor]

    def alone(self, item: Tensor) -> Tensor:
        return self.encoder(item[None])[0].detach()


def check(encoder: Encoder, *, without: Collection[str] = ()) -> None:
    """See ``theworld_encoders.testing.check_encoder``."""
    if unknown := sorted(set(without) - set(PROMISES)):
        raise ValueError(f"there is no promise {unknown[0]!r}. Known ones: {', '.join(PROMISES)}.")
    like = next(encoder.parameters(), torch.zeros(()))
    spec, generator = encoder.spec, torch.Generator().manual_seed(0)
    shortest = spec.fit_frames(1)
    lengths = (shortest, *(spec.fit_frames(shortest + 1),) * 3)
    shapes = [(frames, 3, spec.frame_size, spec.frame_size) for frames in lengths]
    items = [torch.rand(shape, generator=generator).mul(2).sub(1).to(like) for shape in shapes]
    subject = Subject(encoder=encoder, image=items[0], clips=items[1:])
    for name, promise in PROMISES.items():
        if name in without:
            continue
        try:
            promise(subject)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from None
        except Exception as error:  # whatever the encoder raises, its author has to know while what was asked
            raise AssertionError(f"{name}: the encoder raised {type(error).__name__}: {error}") from error


def _copies(subject: Subject) -> None:
    wanted = subject.alone(subject.clips[0])
    _same(deepcopy(subject.encoder)(subject.clips[0][None])[0], wanted, "features of a deep copy differ")
    _same(pickle.loads(pickle.dumps(subject.encoder))(subject.clips[0][None])[0], wanted, "an unpickled copy's differ")


def _shape(subject: Subject) -> None:
    spec = subject.encoder.spec
    for item in (subject.image, subject.clips[0]):
        features = subject.alone(item)
        wanted = (*spec.grid(item.shape[0], *item.shape[2:]), spec.width)
        _ensure(features.shape == wanted, f"features have shape {tuple(features.shape)}, the spec says {wanted}")
        _ensure(bool(features.isfinite().all()), f"{int((~features.isfinite()).sum())} features are not finite")
    longer = subject.clips[0][:1].repeat(spec.fit_frames(1) + 1, 1, 1, 1)
    if spec.fit_frames(len(longer)) != len(longer):
        try:
            subject.alone(longer)
        except ValueError:
            return
        raise AssertionError(f"a clip of {len(longer)} frames is encoded, the spec says {spec.frame_rule}")


def _dtype(subject: Subject) -> None:
    given = subject.image.dtype
    found = subject.alone(subject.image).dtype
    _ensure(found == given, f"pixels of {given} give features of {found}")
    features = deepcopy(subject.encoder).to(torch.bfloat16)(subject.clips[0][None].bfloat16())
    _ensure(features.dtype == torch.bfloat16, f"after .to(torch.bfloat16), features are of {features.dtype}")
    _ensure(bool(features.isfinite().all()), "after .to(torch.bfloat16), features are not finite")


def _repeats(subject: Subject) -> None:
    for item in (subject.image, subject.clips[0]):
        _same(subject.alone(item), subject.alone(item), "two calls with the same pixels differ")


def _batch(subject: Subject) -> None:
    clips = subject.clips
    singles = [subject.alone(item) for item in (*clips, subject.image)]
    for order in ((0, 1, 2), (2, 0, 1), (1, 2)):
        together = subject.encoder(torch.stack([clips[index] for index in order])).detach()
        for place, index in enumerate(order):
            _near(together[place], singles[index], f"item {place} of a batch of {len(order)} differs from it alone")
    ragged = subject.encoder.encode_items([clips[1], subject.image, clips[0]])
    for features, index in zip(ragged, (1, 3, 0), strict=True):
        _near(features.detach(), singles[index], "encode_items gives an item other features than it has alone")


def _pixels(subject: Subject) -> None:
    for item in (subject.image, subject.clips[0]):
        changed = not torch.equal(subject.alone(-item), subject.alone(item))
        _ensure(changed, f"features of {len(item)} frames do not depend on the pixels")


def _time(subject: Subject) -> None:
    clip, spec = subject.clips[0], subject.encoder.spec
    features = subject.alone(clip)
    if spec.kind == "world":
        backwards = subject.alone(clip.flip(0)).flip(0)
        _ensure(not _is_near(backwards, features), "a world encoder's features do not see time's arrow")
    elif spec.temporal_stride == 1:
        each = torch.cat([subject.alone(frame[None]) for frame in clip])
        _near(features, each, "a vision encoder's features of a frame depend on other frames")


def _frozen(subject: Subject) -> None:
    for name, parameter in subject.encoder.named_parameters():
        _ensure(
            not parameter.requires_grad, f"{name} requires gradients in a new encoder: call freeze() when it is made"
        )
    training = [name or "the encoder" for name, module in subject.encoder.named_modules() if module.training]
    _ensure(not training, f"{training[:1]} is in training mode in a new encoder: call freeze() when it is made")
    training = [module for module in deepcopy(subject.encoder).train().modules() if module.training]
    _ensure(not training, "train() puts a frozen encoder into training mode, as a model around it would")
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        features = subject.encoder(subject.clips[0][None].clone().requires_grad_())
    _ensure(not features.requires_grad, "a frozen encoder's features require gradients")
    _ensure(not kept, f"a frozen encoder keeps {len(kept)} tensors for a backward pass")


def _gradients(subject: Subject) -> None:
    encoder = deepcopy(subject.encoder).requires_grad_(True)
    pixels = subject.clips[0][None].clone().requires_grad_()
    features = encoder(pixels)
    _ensure(features.requires_grad, "features do not require gradients though parameters do")
    features.float().pow(2).sum().backward()
    reached = [name for name, parameter in encoder.named_parameters() if _nonzero(parameter.grad)]
    _ensure(bool(reached), "gradients reach no parameter of an unfrozen encoder")
    _ensure(_nonzero(pixels.grad), "gradients do not reach the pixels, so they stop on their way back")


def _device(subject: Subject) -> None:
    encoder = subject.encoder
    with torch.device("meta"):
        empty = _rebuilt(encoder)
    for name, tensor in [*empty.named_parameters(), *empty.named_buffers()]:
        _ensure(tensor.is_meta, f"{name} lies on {tensor.device} though it was made under torch.device('meta')")
    filled, fresh = empty.to_empty(device="cpu"), dict(_rebuilt(encoder).named_buffers())
    with torch.no_grad():
        for tensor in [*filled.parameters(), *filled.buffers()]:
            tensor.fill_(float("nan") if tensor.is_floating_point() else 1)
        filled.reset_parameters()
    for name, parameter in filled.named_parameters():
        _ensure(bool(parameter.isfinite().all()), f"reset_parameters() leaves the parameter {name} unfilled")
    for name, buffer in filled.named_buffers():
        _ensure(torch.equal(buffer, fresh[name].cpu()), f"reset_parameters() leaves the buffer {name} unfilled")
    for name, module in encoder.named_modules():
        stray = [key for key, value in vars(module).items() if isinstance(value, Tensor)]
        where = f" of {name}" if name else ""
        _ensure(not stray, f"the tensor {', '.join(stray)}{where} is no buffer, so .to(device) leaves it behind")
    if (accelerator := torch.accelerator.current_accelerator()) is not None:
        features = deepcopy(encoder).to(accelerator)(subject.clips[0][None].to(accelerator))
        _ensure(features.device.type == accelerator.type, f"on {accelerator}, features lie on {features.device}")


def _saving(subject: Subject) -> None:
    encoder, rebuilt = subject.encoder, _rebuilt(subject.encoder)
    _ensure(rebuilt.spec == encoder.spec, f"from_config(config) has {rebuilt.spec}, the encoder {encoder.spec}")
    saved = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    rebuilt.to(subject.image).load_state_dict(saved)
    wanted = subject.alone(subject.clips[0])
    _same(rebuilt(subject.clips[0][None])[0], wanted, "from_config(config) with the saved weights gives other features")


def _threads(subject: Subject) -> None:
    items = [clip + 0.01 * number for number in range(NUM_THREADS) for clip in subject.clips]
    alone = [subject.alone(item) for item in items]
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        for together, wanted in zip(pool.map(subject.alone, items), alone, strict=True):
            _near(together, wanted, f"with {NUM_THREADS} threads at once, features differ from those of one")


def _no_traces(subject: Subject) -> None:
    before = _state(subject.encoder)
    subject.alone(subject.clips[0])
    for name, value in _state(subject.encoder).items():
        equal = torch.equal(value, before[name]) if isinstance(value, Tensor) else value == before[name]
        _ensure(equal, f"a call changes {name}")


PROMISES: dict[str, Callable[[Subject], None]] = {
    "copies": _copies,
    "shape": _shape,
    "dtype": _dtype,
    "repeats": _repeats,
    "batch": _batch,
    "pixels": _pixels,
    "time": _time,
    "frozen": _frozen,
    "gradients": _gradients,
    "device": _device,
    "saving": _saving,
    "threads": _threads,
    "no traces": _no_traces,
}
"""In the order in which they are checked: later ones lean on earlier ones."""


def _rebuilt(encoder: Encoder) -> Encoder:
    """From the configuration alone, as it comes back from a JSON file."""
    return type(encoder).from_config(json.loads(json.dumps(encoder.config)), frame_size=encoder.spec.frame_size)


def _state(encoder: Encoder) -> dict[str, Any]:
    weights = {f"its own {name}": tensor.clone() for name, tensor in encoder.state_dict().items()}
    buffers = {f"its own {name}": tensor.clone() for name, tensor in encoder.named_buffers()}
    return {
        **weights,
        **buffers,
        # Not Python's own: beartype, which may check an encoder's annotations, draws from that.
        "torch's random state": torch.get_rng_state(),
        "NumPy's random state": str(np.random.get_state()),
        "the grad mode": torch.is_grad_enabled(),
        "the default dtype": torch.get_default_dtype(),
        "the default device": torch.get_default_device(),
        "the number of threads": torch.get_num_threads(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "its training mode": encoder.training,
    }


def _nonzero(gradient: Tensor | None) -> bool:
    return gradient is not None and bool(gradient.isfinite().all()) and bool(gradient.any())


def _is_near(features: Tensor, wanted: Tensor) -> bool:
    return _distance(features, wanted) <= TOLERANCE[wanted.dtype]


def _distance(features: Tensor, wanted: Tensor) -> float:
    scale = max(float(wanted.abs().max()), torch.finfo(torch.float32).tiny)
    return float((features - wanted).abs().max()) / scale


def _near(features: Tensor, wanted: Tensor, what: str) -> None:
    distance, tolerance = _distance(features, wanted), TOLERANCE[wanted.dtype]
    _ensure(distance <= tolerance, f"{what} by {distance:.1e} of their magnitude (at most {tolerance:.0e} is allowed)")


def _same(features: Tensor, wanted: Tensor, what: str) -> None:
    _ensure(torch.equal(features, wanted), f"{what} (by up to {(features - wanted).abs().max():.1e})")


def _ensure(kept: bool, how_not: str) -> None:
    if not kept:
        raise AssertionError(how_not)
