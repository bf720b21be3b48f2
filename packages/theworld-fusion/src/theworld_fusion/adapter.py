# pyright: reportAttributeAccessIssue=false, reportCallIssue=false
# models get their assembly as an attribute, and peft's methods only with peft.
"""Adapters: only what was trained, and the bases that it goes onto. This is what training writes.

A folder with two files: ``theworld_adapter.safetensors`` holds the weights under their names in the model, and
``theworld_adapter.json`` the call of ``assemble`` that made the model, its LoRA layers, and a fingerprint of the bases.
"""

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from theworld_fusion.assemble import NEW_MODULES, Assembly, assemble
from theworld_fusion.errors import CheckpointError
from theworld_fusion.modeling_theworld import TheWorldForConditionalGeneration
from theworld_fusion.processing_theworld import TheWorldProcessor

WEIGHTS = "theworld_adapter.safetensors"
DESCRIPTION = "theworld_adapter.json"
_FORMAT = 1
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")


def save_adapter(model: nn.Module, folder: str | Path) -> None:
    """Write what was trained: every parameter that requires gradients, and the world projector and gate in any case.

    Args:
        model: from ``assemble`` or ``load_adapter``; LoRA is saved too, whether from ``model.add_adapter`` or from
            peft's ``get_peft_model``.
        folder: made if need be.

    Raises:
        CheckpointError: the model was not made by ``assemble`` or ``load_adapter``, so its bases are not known.
    """
    inner = _unwrapped(model)
    assembly: Assembly | None = getattr(inner, "assembly", None)
    if assembly is None:
        raise CheckpointError("the model was loaded whole, so it has no bases. Save it whole, with save_pretrained.")
    trained = {
        name: parameter.detach().contiguous()
        for name, parameter in inner.named_parameters()
        if parameter.requires_grad or name.startswith(NEW_MODULES)
    }
    lora: dict[str, Any] = getattr(model, "peft_config", None) or getattr(inner, "peft_config", {})
    description = {
        "format": _FORMAT,
        "assembly": asdict(assembly),
        "lora": {name: config.to_dict() for name, config in lora.items()},
        "trained": sorted(trained),
        "bases": fingerprints(inner, set(trained)),
    }
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(trained, folder / WEIGHTS, metadata={"format": "pt"})
    text = json.dumps(description, indent=2, ensure_ascii=False, sort_keys=True, default=_plain)
    (folder / DESCRIPTION).write_text(text + "\n", encoding="utf-8")


def load_adapter(
    folder: str | Path,
    *,
    vlm: str | Path | None = None,
    world: str | Path | None = None,
    dtype: torch.dtype | str | None = None,
    device_map: Any = None,
) -> tuple[TheWorldForConditionalGeneration, TheWorldProcessor]:
    """Assemble the bases that an adapter was trained on, and put it onto them.

    What was trained requires gradients, as when it was saved; everything else is frozen.

    Args:
        vlm, world: where the bases lie now, if no longer where they were; they have to be the same ones.
        dtype, device_map: as in ``from_pretrained``.

    Raises:
        CheckpointError: the folder holds no adapter, or a pickle; a name or shape differs; or a base is another one.
    """
    folder = Path(folder)
    description, tensors = _read(folder)
    assembly = Assembly(**description["assembly"])
    if vlm is not None:
        assembly = replace(assembly, vlm=str(vlm), revision=None)
    if world is not None:
        assembly = replace(assembly, world=str(world), world_revision=None)
    arguments = asdict(assembly)
    overrides = arguments.pop("overrides")
    model, processor = assemble(**arguments, **overrides, dtype=dtype, device_map=device_map)
    _attach_lora(model, description["lora"])
    _fill(model, tensors, folder)
    for base, wanted in fingerprints(model, set(tensors)).items():
        if wanted != description["bases"].get(base):
            source = assembly.vlm if base == "vlm" else assembly.world
            raise CheckpointError(
                f"{folder} was trained on another {base} than {source}: their weights differ. "
                f"Give the one that it was trained on, load_adapter(..., {base}=...)."
            )
    return model, processor


def is_adapter(folder: str | Path) -> bool:
    """Whether ``folder`` is what ``save_adapter`` wrote."""
    return (Path(folder) / DESCRIPTION).is_file()


def fingerprints(model: nn.Module, trained: set[str]) -> dict[str, str]:
    """A digest of each base, ``vlm`` and ``world``, without the ``trained`` parameters.

    Of every parameter it reads up to 64 values, rounded to bfloat16, so that it is quick and does not depend on the
    dtype or device that a base is loaded with.
    """
    digests = {"vlm": hashlib.sha256(), "world": hashlib.sha256()}
    for name, parameter in sorted(_base_parameters(model).items()):
        if name in trained:
            continue
        flat = parameter.detach().flatten()
        sample = flat[:: max(1, flat.numel() // 64)][:64].to("cpu", torch.bfloat16)
        digest = digests["world" if name.startswith("model.world_encoder.") else "vlm"]
        digest.update(f"{name}{tuple(parameter.shape)}".encode() + sample.view(torch.int16).numpy().tobytes())
    return {base: digest.hexdigest() for base, digest in digests.items()}


def _base_parameters(model: nn.Module) -> dict[str, Tensor]:
    """Those of the bases, under their names without LoRA around them."""
    return {
        name.replace(".base_layer.", "."): parameter
        for name, parameter in model.named_parameters()
        if ".lora_" not in name and not name.startswith(NEW_MODULES)
    }


def _unwrapped(model: nn.Module) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model  # peft's wrapper


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not is_adapter(folder):
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


def _attach_lora(model: TheWorldForConditionalGeneration, lora: dict[str, dict[str, Any]]) -> None:
    if not lora:
        return
    try:
        from peft import PeftConfig
    except ImportError as error:
        raise CheckpointError(
            'the adapter holds LoRA layers, which need peft. Install it: pip install "theworld-fusion[lora]"'
        ) from error
    for name, config in lora.items():
        model.add_adapter(PeftConfig.from_peft_type(**config), adapter_name=name)


@torch.no_grad()
def _fill(model: nn.Module, tensors: dict[str, Tensor], folder: Path) -> None:
    """Copy the tensors into the model; nothing else requires gradients afterwards."""
    parameters = dict(model.named_parameters())
    new = {name for name in parameters if name.startswith(NEW_MODULES) or ".lora_" in name}
    _same_names(folder, new | set(tensors), set(tensors) & set(parameters), "the model", WEIGHTS)
    for name, parameter in parameters.items():
        parameter.requires_grad_(name in tensors)
        if name in tensors:
            if parameter.shape != tensors[name].shape:
                raise CheckpointError(
                    f"{folder} has {name} with shape {tuple(tensors[name].shape)}, the model {tuple(parameter.shape)}. "
                    "Use the encoder and settings that it was trained with."
                )
            parameter.copy_(tensors[name])


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
