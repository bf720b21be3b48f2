# pyright: reportOptionalMemberAccess=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportArgumentType=false
# transformers annotates sub-configurations otherwise than they are, and accelerate's hooks less.
"""Where the parts of a model lie: three arrangements by name, as maps of devices, and maps held against the machine.

Sizes are those of the weights alone. A device also holds what a call computes; see ``theworld estimate`` for training.
"""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from accelerate.utils import get_max_memory
from torch import nn

from theworld_fusion.configuration_theworld import TheWorldConfig
from theworld_fusion.errors import CheckpointError
from theworld_fusion.modeling_theworld import TheWorldForConditionalGeneration

PLACEMENTS = ("single", "split", "offload")
Place = int | str
"""The number of an accelerator, ``cpu`` or ``disk``."""
_TRANSFORMERS = ("auto", "balanced", "balanced_low_0", "sequential")
"""Maps that transformers makes."""
_SPARE = 0.9
"""Share of the free memory of a CPU that weights may rest in before they go to the disk."""
_ENCODER = "model.world_encoder"


def placement(
    name: str,
    config: TheWorldConfig,
    *,
    dtype: torch.dtype | str | None = None,
    free: Mapping[Place, int] | None = None,
) -> dict[str, Place]:
    """The map of devices that ``name`` stands for on this machine; pass the name itself to whatever takes a map.

    ``single``: all on the first accelerator. ``split``: the world encoder on the last accelerator, everything else over
    the others, each as full as the next; beside a single accelerator the encoder rests on the CPU, and comes over when
    it is asked. ``offload``: embeddings, head and projectors on the first accelerator; layers, towers and the encoder
    rest on the CPU, and on the disk what it has no room for, and come over one at a time. Without an accelerator, the
    CPU computes: ``single`` is the CPU, and what rests elsewhere rests on the disk.

    Args:
        dtype: of the weights once they are loaded; default: the configuration's.
        free: bytes that are free, by number of accelerator and for ``cpu``; default: as it is now.

    Raises:
        CheckpointError: there is no such placement, the weights do not fit, or nothing is there to be split off.
    """
    if name not in PLACEMENTS:
        raise _unknown(name)
    free = _free() if free is None else free
    model = _empty(config, dtype)
    accelerators = sorted(place for place in free if isinstance(place, int))
    first: Place = accelerators[0] if accelerators else "cpu"
    if name == "single":
        places = {"": first}
    elif name == "split":
        places = _split(model, accelerators, free)
    else:
        places = _offload(model, first, free)
    _check_room(model, places, free)
    return places


def resolve(device_map: Any, config: TheWorldConfig, dtype: torch.dtype | str | None = None) -> Any:
    """What ``from_pretrained`` takes: names of placements become maps, and maps and devices are checked.

    Raises:
        CheckpointError: a device is not there, its free memory is less than the weights it is to hold, or a name is
            unknown.
    """
    if device_map is None or (isinstance(device_map, str) and device_map in _TRANSFORMERS):
        return device_map
    if isinstance(device_map, str) and device_map in PLACEMENTS:
        return placement(device_map, config, dtype=dtype)
    places = device_map if isinstance(device_map, Mapping) else {"": device_map}
    wanted = {name: _place(device) for name, device in places.items()}
    _check_room(_empty(config, dtype), wanted, _free())
    return device_map


def accept_any_device(model: TheWorldForConditionalGeneration, device_map: Any) -> None:
    """Let inputs of a ``single`` model lie anywhere, as they may where accelerate spread it over several devices."""
    if device_map != "single":
        return
    parts = [part for part in model.model.children() if next(part.parameters(), None) is not None]
    for module in (model, *parts, model.lm_head):
        hook = AlignDevicesHook(
            execution_device=model.device, io_same_device=module is model, skip_keys=model._skip_keys_device_placement
        )
        add_hook_to_module(module, hook)


def _split(model: nn.Module, accelerators: Sequence[int], free: Mapping[Place, int]) -> dict[str, Place]:
    if not any(name.startswith(f"{_ENCODER}.") for name, _ in model.named_parameters()):
        raise CheckpointError("'split' puts the world encoder apart, and this model has no weights in one. Use 'auto'.")
    units = [unit for unit in _units(model) if _ENCODER not in unit]
    if len(accelerators) < 2:
        home, apart = (accelerators[0], "cpu") if accelerators else ("cpu", "disk")
        return {**{name: home for unit in units for name in unit}, _ENCODER: apart}
    *homes, own = accelerators
    sizes = [sum(_sizes(model, unit).values()) for unit in units]
    low, high = 0.0, 1.0
    for _ in range(40):  # the smallest share of each device's memory that is enough
        share = (low + high) / 2
        low, high = (low, share) if _dealt(sizes, [share * free[home] for home in homes]) else (share, high)
    dealt = _dealt(sizes, [high * free[home] for home in homes]) or [0] * len(units)  # too much is an error below
    places: dict[str, Place] = {name: homes[index] for unit, index in zip(units, dealt, strict=True) for name in unit}
    return {**places, _ENCODER: own}


def _dealt(sizes: Sequence[int], room: Sequence[float]) -> list[int] | None:
    """For each size, in order, the place that it goes to; ``None`` where there is not enough room."""
    found, place, used = list[int](), 0, 0.0
    for size in sizes:
        while place < len(room) and used + size > room[place]:
            place, used = place + 1, 0.0
        if place == len(room):
            return None
        found.append(place)
        used += size
    return found


def _offload(model: nn.Module, first: Place, free: Mapping[Place, int]) -> dict[str, Place]:
    left = _SPARE * free["cpu"] if first != "cpu" else 0.0
    places: dict[str, Place] = {}
    for unit in _units(model):
        size = sum(_sizes(model, unit).values())
        rests = unit[0] in (_ENCODER, "model.vision_tower") or ".layers." in unit[0]
        place: Place = first if not rests else "cpu" if size <= left else "disk"
        left -= size if place == "cpu" else 0
        places |= dict.fromkeys(unit, place)
    return places


def _units(model: Any) -> Iterator[tuple[str, ...]]:
    """Names of modules that are on one device, in the order in which a call comes to them."""
    parts = [name for name, _ in model.model.named_children() if name != "language_model"]
    yield from ((f"model.{name}",) for name in parts)
    tied = model.lm_head.weight is model.get_input_embeddings().weight
    for name, child in model.model.language_model.named_children():
        inside = f"model.language_model.{name}"
        if name == "layers":
            yield from ((f"{inside}.{index}",) for index in range(len(child)))
        else:
            yield (inside, "lm_head") if tied and name == "embed_tokens" else (inside,)
    if not tied:
        yield ("lm_head",)


def _sizes(model: nn.Module, places: Sequence[str] | Mapping[str, Any]) -> dict[str, int]:
    """Bytes of weights below each name, each weight once, under the longest name that it has."""
    found = dict.fromkeys(places, 0)
    longest = sorted(places, key=len, reverse=True)
    for name, parameter in model.named_parameters():
        home = next((one for one in longest if not one or f"{name}.".startswith(f"{one}.")), None)
        if home is not None:
            found[home] += parameter.nbytes
    return found


def _check_room(model: nn.Module, places: Mapping[str, Place], free: Mapping[Place, int]) -> None:
    needed: dict[Place, int] = {}
    for name, size in _sizes(model, places).items():
        needed[places[name]] = needed.get(places[name], 0) + size
    if any(size > free.get(place, size) for place, size in needed.items()):
        table = ", ".join(
            f"{_name(place)} {size / 1e9:.4g} GB of {free[place] / 1e9:.4g} GB free"
            for place, size in needed.items()
            if place in free
        )
        raise CheckpointError(
            f"the weights do not fit: {table}. Use more devices ('split', 'auto'), 'offload', or a narrower dtype."
        )


def _place(device: Any) -> Place:
    """A device as it is written in maps, after it was seen to exist."""
    if device in ("disk", "meta"):
        return device
    found = torch.accelerator.current_accelerator()
    count = torch.accelerator.device_count() if found is not None else 0
    try:
        wanted = torch.device(found.type if found else "cuda", device) if type(device) is int else torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise _unknown(device) from error
    if wanted.type == "cpu":
        return "cpu"
    index = wanted.index or 0
    if found is None or wanted.type != found.type or index >= count:
        there = ", ".join(["cpu", *(f"{found.type}:{number}" for number in range(count) if found)])
        raise CheckpointError(f"device_map has {device}, and this machine has {there}. Name one of these.")
    return index


def _unknown(name: Any) -> CheckpointError:
    known = (*PLACEMENTS, *_TRANSFORMERS)
    near = difflib.get_close_matches(str(name), known, n=1)
    hint = f"Did you mean {near[0]!r}?" if near else f"Use a map or one of {', '.join(known)}."
    return CheckpointError(f"device_map is {name!r}, which is neither a placement nor a device. {hint}")


def _name(place: Place) -> str:
    found = torch.accelerator.current_accelerator()
    return f"{found.type if found else 'accelerator'}:{place}" if isinstance(place, int) else place


def _free() -> dict[Place, int]:
    return {place: int(size) for place, size in get_max_memory().items()}


def _empty(config: TheWorldConfig, dtype: torch.dtype | str | None) -> TheWorldForConditionalGeneration:
    """The model without values, in the dtype that it will have."""
    if dtype is None or dtype == "auto":
        dtype = config.dtype or config.text_config.dtype or torch.float32
    with torch.device("meta"):
        return TheWorldForConditionalGeneration(config).to(getattr(torch, dtype) if isinstance(dtype, str) else dtype)
