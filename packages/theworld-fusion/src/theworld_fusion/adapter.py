# pyright: reportAttributeAccessIssue=false, reportCallIssue=false
# models get their assembly as an attribute, and peft's methods only with peft.
"""Adapters: only what was trained, and the bases that it goes onto. This is what training writes.

A folder with two files: ``theworld_adapter.safetensors`` holds the weights under their names in the model, and
``theworld_adapter.json`` the call of ``assemble`` that made the model, its LoRA layers, and a fingerprint of the bases.
"""

import hashlib
import json
import os
import warnings
from collections.abc import Collection, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from theworld_fusion.assemble import NEW_MODULES, Assembly, assemble
from theworld_fusion.errors import CheckpointError
from theworld_fusion.hub import DESCRIPTION, WEIGHTS, adapter_folder
from theworld_fusion.modeling_theworld import TheWorldForConditionalGeneration
from theworld_fusion.processing_theworld import TheWorldProcessor

_FORMAT = 1
_LORA_KEYS = ("r", "lora_alpha", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern")
"""What changes the result of LoRA layers and cannot be seen by the names and shapes of their weights."""
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")


def save_adapter(
    model: nn.Module,
    folder: str | Path,
    trained: Collection[str] | None = None,
    *,
    bases: Mapping[str, str] | None = None,
    is_main_process: bool = True,
) -> None:
    """Write what was trained, each weight in the dtype that it has.

    Weights that are dealt out over processes (``DTensor``) are gathered one after the other, what was not trained never
    is: all processes call this, with the ``bases`` of before, and one of them writes.

    Args:
        model: from ``assemble`` or ``load_adapter``; LoRA is saved too, whether from ``model.add_adapter`` or from
            peft's ``get_peft_model``.
        folder: made if need be.
        trained: names of the parameters that differ from the bases', for when a later stage of training has frozen
            some of them again; default: every parameter that requires gradients. World projector, gate and LoRA layers
            are saved in any case: no base has them.
        bases: their ``fingerprints``, where they were taken already; default: they are taken now.
        is_main_process: whether this process writes.

    Raises:
        CheckpointError: the model was not made by ``assemble`` or ``load_adapter``, so its bases are not known, or it
            has no parameter of a name that is in ``trained``.
    """
    inner = _unwrapped(model)
    assembly: Assembly | None = getattr(inner, "assembly", None)
    if assembly is None:
        raise CheckpointError("the model was loaded whole, so it has no bases. Save it whole, with save_pretrained.")
    parameters = dict(inner.named_parameters())
    if trained is None:
        trained = {name for name, parameter in parameters.items() if parameter.requires_grad}
    if unknown := sorted(set(trained) - set(parameters)):
        raise CheckpointError(
            f"the model has no {', '.join(unknown[:3])}, which trained names. "
            "Take names of model.named_parameters(), as they are now."
        )
    saved = [name for name in parameters if name in trained or _is_new(name)]
    tensors: dict[str, Tensor] = {}
    for name in saved:
        whole = _whole(parameters[name].detach())
        if is_main_process:
            tensors[name] = whole.contiguous()
    if not is_main_process:
        return
    lora: dict[str, Any] = getattr(model, "peft_config", None) or getattr(inner, "peft_config", {})
    folder = Path(folder)
    description = {
        "format": _FORMAT,
        "assembly": asdict(assembly),
        "beside": _beside(folder, assembly),
        "lora": {name: config.to_dict() for name, config in lora.items()},
        "trained": sorted(tensors),
        "bases": fingerprints(inner, set(tensors)) if bases is None else dict(bases),
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    text = json.dumps(description, indent=2, ensure_ascii=False, sort_keys=True, default=_plain)
    (folder / DESCRIPTION).write_text(text + "\n", encoding="utf-8")


def load_adapter(
    source: str | Path,
    *,
    revision: str | None = None,
    vlm: str | Path | None = None,
    world: str | Path | None = None,
    dtype: torch.dtype | str | None = None,
    device_map: Any = None,
) -> tuple[TheWorldForConditionalGeneration, TheWorldProcessor]:
    """Assemble the bases that an adapter was trained on, and put it onto them.

    What was trained requires gradients; everything else is frozen.

    Args:
        source: a folder that ``save_adapter`` wrote, or a repository of the hub, ``owner/name``, that holds one.
        revision: branch, tag or commit of that repository; all files are then of one commit.
        vlm, world: where the bases lie now, if no longer where they were; they have to be the same ones. Those that
            lie beside the adapter, in the folder around it, are found though that folder was moved.
        dtype, device_map: as in ``assemble``.

    Raises:
        CheckpointError: there is no adapter, or a pickle; a name or shape differs; or a base is another one.
    """
    folder = adapter_folder(source, revision=revision)
    description, tensors = _read(folder)
    assembly = _found_beside(folder, description)
    if vlm is not None:
        assembly = replace(assembly, vlm=str(vlm), revision=None)
    if world is not None:
        assembly = replace(assembly, world=str(world), world_revision=None)
    arguments = asdict(assembly)
    overrides = arguments.pop("overrides")
    model, processor = assemble(**arguments, **overrides, dtype=dtype, device_map=device_map)
    parameters = _fitting(model, description, tensors, folder)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.requires_grad_(name in tensors)
            if name in tensors:
                parameter.copy_(tensors[name])
    return model, processor


def fill_adapter(model: nn.Module, folder: str | Path) -> set[str]:
    """Put an adapter onto a model of the same bases that is there already; training goes on this way.

    Its weights keep the dtype that they were saved in, usually float32, though the bases may be bfloat16. LoRA layers
    that the adapter has and the model does not are made. What requires gradients stays as it is.

    Returns:
        Names of the parameters that it filled: those that differ from the bases'.

    Raises:
        CheckpointError: as ``load_adapter``; or LoRA layers are there with other settings. Unless the bases differ or
            LoRA layers had to be made, the model is then as it was.
    """
    folder = Path(folder)
    description, tensors = _read(folder)
    parameters = _fitting(_unwrapped(model), description, tensors, folder)
    for name, tensor in tensors.items():
        # Copied: in the file it lies anywhere, and products of few rows are rounded by where their weights begin.
        parameters[name].data = tensor.to(parameters[name].device, copy=True)
    return set(tensors)


def fingerprints(model: nn.Module, trained: set[str]) -> dict[str, str]:
    """A digest of each base, ``vlm`` and ``world``, without the ``trained`` parameters.

    Of every parameter it reads up to 64 values, rounded to bfloat16, so that it is quick and does not depend on the
    dtype or device that a base is loaded with.
    """
    digests = {"vlm": hashlib.sha256(), "world": hashlib.sha256()}
    trained = {name.replace(".base_layer.", ".") for name in trained}
    for name, parameter in sorted(_base_parameters(model).items()):
        if name in trained:
            continue
        flat = parameter.detach().flatten()
        sample = flat[:: max(1, flat.numel() // 64)][:64].to("cpu", torch.bfloat16)
        digest = digests["world" if name.startswith("model.world_encoder.") else "vlm"]
        digest.update(f"{name}{tuple(parameter.shape)}".encode() + sample.view(torch.int16).numpy().tobytes())
    return {base: digest.hexdigest() for base, digest in digests.items()}


def _whole(tensor: Tensor) -> Tensor:
    """The tensor, gathered in CPU memory if it is dealt out over processes. Not every torch has ``DTensor``."""
    gather = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather().cpu()


def _is_new(name: str) -> bool:
    """Whether no base has the parameter."""
    return name.startswith(NEW_MODULES) or ".lora_" in name


def _base_parameters(model: nn.Module) -> dict[str, Tensor]:
    """Those of the bases, under their names without LoRA around them."""
    return {
        name.replace(".base_layer.", "."): parameter
        for name, parameter in model.named_parameters()
        if not _is_new(name)
    }


def _beside(folder: Path, assembly: Assembly) -> dict[str, str]:
    """Bases that lie in the folder around the adapter's, relative to the adapter: they are moved together."""
    around = folder.resolve().parent
    paths = {base: Path(source).resolve() for base, source in _sources(assembly).items() if Path(source).is_dir()}
    inside = {base: path for base, path in paths.items() if path.is_relative_to(around)}
    return {base: Path(os.path.relpath(path, folder.resolve())).as_posix() for base, path in inside.items()}


def _found_beside(folder: Path, description: dict[str, Any]) -> Assembly:
    """The assembly, with bases taken from inside the adapter's folder, and from beside it if gone from where they were.

    A base inside is the adapter's own: whatever else has its path here is another one.
    """
    assembly = Assembly(**description["assembly"])
    moved = {
        base: str(path)
        for base, source in _sources(assembly).items()
        if (near := description.get("beside", {}).get(base)) is not None
        and (not near.startswith("..") or not Path(source).exists())
        and (path := (folder / near).resolve()).is_dir()
    }
    return replace(assembly, **moved)


def _sources(assembly: Assembly) -> dict[str, str]:
    return {"vlm": assembly.vlm} if assembly.world is None else {"vlm": assembly.vlm, "world": assembly.world}


def _unwrapped(model: nn.Module) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model  # peft's wrapper


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not (folder / DESCRIPTION).is_file():
        pickles = sorted(path.name for path in folder.glob("*") if path.suffix in _PICKLES)
        if pickles:
            raise CheckpointError(
                f"{folder} holds {pickles[0]}, a pickle, which can run code when it is read. "
                "Save the adapter again with save_adapter, which writes safetensors."
            )
        raise CheckpointError(f"{folder} holds no {DESCRIPTION}, so it is no adapter. Give a folder of save_adapter.")
    try:
        description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        tensors = load_file(folder / WEIGHTS)
    except (OSError, json.JSONDecodeError, UnicodeDecodeError, SafetensorError) as error:
        raise CheckpointError(f"{folder} is no readable adapter ({error}). Fetch it again.") from error
    if description.get("format") != _FORMAT:
        raise CheckpointError(
            f"{folder} has format {description.get('format')}, this version reads {_FORMAT}. "
            "Install the theworld-fusion that wrote it."
        )
    _same_names(folder, set(description["trained"]), set(tensors), DESCRIPTION, WEIGHTS)
    return description, tensors


def _attach_lora(model: Any, lora: dict[str, dict[str, Any]], folder: Path) -> None:
    """Make those that are not there; those that are have to be the same. All are active afterwards."""
    there: dict[str, Any] = getattr(model, "peft_config", {})
    for name in there.keys() & lora.keys():
        has = json.loads(json.dumps(there[name].to_dict(), default=_plain))
        if differing := [f"{key} {lora[name].get(key)!r}" for key in _LORA_KEYS if has.get(key) != lora[name].get(key)]:
            raise CheckpointError(
                f"{folder} has LoRA layers {name!r} with {', '.join(differing)}, the model has them with "
                f"{', '.join(f'{key} {has.get(key)!r}' for key in _LORA_KEYS)}. Use the trained ones."
            )
    missing = {name: config for name, config in lora.items() if name not in there}
    if not missing:
        return
    try:
        from peft import PeftConfig
    except ImportError as error:
        raise CheckpointError(
            'the adapter holds LoRA layers, which need peft. Install it: pip install "theworld-fusion[lora]"'
        ) from error
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config`")  # several adapters are meant
        for name, config in missing.items():
            model.add_adapter(PeftConfig.from_peft_type(**config), adapter_name=name)
    model.set_adapter(list(model.peft_config))


def _fitting(
    model: nn.Module, description: dict[str, Any], tensors: dict[str, Tensor], folder: Path
) -> dict[str, nn.Parameter]:
    """The model's parameters by name, once it is known that the tensors fit and that the bases are the right ones."""
    _attach_lora(model, description["lora"], folder)
    parameters = dict(model.named_parameters())
    new = {name for name in parameters if _is_new(name)}
    _same_names(folder, new | set(tensors), set(tensors) & set(parameters), "the model", WEIGHTS)
    for name, tensor in tensors.items():
        if parameters[name].shape != tensor.shape:
            raise CheckpointError(
                f"{folder} has {name} with shape {tuple(tensor.shape)}, the model {tuple(parameters[name].shape)}. "
                "Use the encoder and settings that it was trained with."
            )
    for base, wanted in fingerprints(model, set(tensors)).items():
        if wanted != description["bases"].get(base):
            assembly: Assembly | None = getattr(model, "assembly", None)
            source = "this one" if assembly is None else assembly.vlm if base == "vlm" else assembly.world
            raise CheckpointError(
                f"{folder} was trained on another {base} than {source}: their weights differ. "
                f"Give the one that it was trained on, load_adapter(..., {base}=...)."
            )
    return parameters


def _same_names(folder: Path, wanted: set[str], found: set[str], wanting: str, finding: str) -> None:
    differing = sorted(wanted ^ found)
    if differing:
        raise CheckpointError(
            f"{folder}: {len(differing)} weights are not in both {wanting} and {finding}: "
            f"{', '.join(differing[:3])}. Save the adapter again, or use the version that wrote it."
        )


def _plain(value: Any) -> Any:
    """Sets and enumerations of peft's configurations as JSON."""
    return sorted(value) if isinstance(value, set | frozenset) else str(getattr(value, "value", value))
