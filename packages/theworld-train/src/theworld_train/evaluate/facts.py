"""What a manifest says about the code, the machine and the model."""

import hashlib
import platform
import subprocess
from functools import cache
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

_PACKAGES = ("theworld_tokens", "theworld_encoders", "theworld_fusion", "theworld_train")
_LIBRARIES = ("torch", "transformers")
_WEIGHTS = ("*.safetensors", "*.json")
_SAMPLE = 64
"""Values that are read of each parameter."""


def code_identity() -> dict[str, Any]:
    """What of the code decides results: a digest of our packages' modules, and the versions of what computes.

    Not the commit: one that changes documents changes no result, and files that were not committed do.
    """
    return {"sources": _sources(), "libraries": {name: version(name) for name in _LIBRARIES}}


def code_facts() -> dict[str, Any]:
    """For people: versions, and the commit where the code lies in a checkout."""
    names = [*(package.replace("_", "-") for package in _PACKAGES), *_LIBRARIES]
    return {"versions": {name: version(name) for name in names}, "commit": _commit(Path(__file__).parent)}


def machine_facts(processes: int) -> dict[str, Any]:
    """What it runs on."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    device = "cpu" if accelerator is None else accelerator.type
    if device == "cuda":
        device = torch.cuda.get_device_name()
    return {
        "device": device,
        "processes": processes,
        "platform": platform.platform(),
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
    }


def checkpoint_facts(source: str | Path) -> dict[str, Any]:
    """Who a checkpoint is: the SHA-256 of a folder's files, wherever that lies, or its name on the hub."""
    folder = Path(source)
    if not folder.is_dir():
        return {"source": str(source)}
    files = sorted(path for pattern in _WEIGHTS for path in folder.glob(pattern))
    return {"files": {path.name: _sha_of(path) for path in files}}


def recipe_of(source: str | Path) -> Any:
    """The recipe that a checkpoint was trained by, as plain values, where it has one."""
    from theworld_train.recipe_file import RECIPE
    from theworld_train.recipe_yaml import load_yaml

    path = Path(source) / RECIPE
    return load_yaml(path.read_text(encoding="utf-8")) if path.is_file() else None


@torch.no_grad()
def weights_digest(model: nn.Module) -> str:
    """A digest of up to 64 values of every parameter and buffer, as they are: other weights have another one."""
    digest = hashlib.sha256()
    for name, tensor in sorted([*model.named_parameters(), *model.named_buffers()]):
        flat = tensor.detach().flatten()
        sample = flat[:: max(1, flat.numel() // _SAMPLE)][:_SAMPLE].cpu()
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(sample.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@cache
def _sources() -> str:
    """Of every module as it lies on the disk now; a package's place does not count."""
    digest = hashlib.sha256()
    for package in _PACKAGES:
        [root] = import_module(package).__path__
        for file in sorted(Path(root).rglob("*.py")):
            content = file.read_bytes()
            digest.update(f"{package}/{file.relative_to(root).as_posix()} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def _sha_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _commit(folder: Path) -> str | None:
    """With a mark where files differ from it."""
    try:
        said = [
            subprocess.run(["git", *command], cwd=folder, capture_output=True, text=True, check=True, timeout=30).stdout
            for command in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no", "."))
        ]
    except (OSError, subprocess.SubprocessError):
        return None
    return said[0].strip() + (" and changes" if said[1].strip() else "")
