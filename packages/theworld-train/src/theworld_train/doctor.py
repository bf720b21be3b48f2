"""What is on this machine and what of TheWorld works on it: nothing is downloaded, no weights are read."""

import os
import platform
import shutil
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import psutil
import torch
from huggingface_hub import constants, get_token, try_to_load_from_cache
from packaging.requirements import Requirement

from theworld_encoders import EncoderError, EncoderSpec, list_encoders
from theworld_encoders.checkpoint import MODEL, WEIGHTS
from theworld_encoders.registry import DEFAULT_ENCODER, encoder_class

OWN = ("theworld-tokens", "theworld-encoders", "theworld-fusion", "theworld-train")
OTHERS = (
    "torch",
    "transformers",
    "diffusers",
    "accelerate",
    "datasets",
    "huggingface-hub",
    "safetensors",
    "peft",
    "av",
)
"""Of which bug reports need the versions."""


@dataclass(frozen=True, kw_only=True)
class Device:
    """Something that models run on."""

    name: str
    kind: Literal["cpu", "cuda", "mps", "xpu"]
    memory: int | None
    """Bytes in all; ``None`` where it is the machine's, as on Apple's chips."""
    free: int | None


@dataclass(frozen=True, kw_only=True)
class Folder:
    """A folder that grows, with the bytes that its disk has left; ``None`` if there is no such disk."""

    purpose: str
    path: str
    free: int | None
    writable: bool


@dataclass(frozen=True, kw_only=True)
class EncoderState:
    """Whether one encoder could be loaded here."""

    name: str
    installed: bool
    """Whether the library that builds it is there."""
    cached: bool
    """Whether its published weights lie in the hub's cache."""
    missing: str
    """What has to be done before it can be used, in a sentence; empty if nothing."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """All of it."""

    python: str
    system: str
    versions: dict[str, str | None]
    """Of distributions; ``None`` where one is not installed."""
    devices: list[Device]
    folders: list[Folder]
    hub_token: bool
    """Whether there is one. What it is stands nowhere."""
    hub_offline: bool
    encoders: list[EncoderState]
    problems: list[str]
    """What keeps TheWorld from working, in sentences; what is merely optional is none."""


def examine() -> Report:
    """Look at everything."""
    folders = _folders()
    encoders = [encoder_state(name) for name in list_encoders()]
    problems = [problem for name in OWN for problem in broken_requirements(name)]
    problems += [f"{one.name}: {one.missing}" for one in encoders if one.name == DEFAULT_ENCODER and not one.installed]
    problems += [
        f"the {one.purpose} {one.path} cannot be written. Set {_VARIABLES[one.purpose]} to a folder of yours."
        for one in folders
        if not one.writable
    ]
    return Report(
        python=platform.python_version(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        versions={name: _version(name) for name in (*OWN, *OTHERS)},
        devices=devices(),
        folders=folders,
        hub_token=get_token() is not None,
        hub_offline=constants.is_offline_mode(),
        encoders=encoders,
        problems=problems,
    )


def broken_requirements(name: str) -> list[str]:
    """What an installed distribution requires and does not get, in sentences; extras are left out."""
    try:
        declared = metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        return [f"{name} is not installed. Run: {sys.executable} -m pip install {name}"]
    problems = list[str]()
    for wish in map(Requirement, declared):
        if wish.marker is not None and not wish.marker.evaluate({"extra": ""}):
            continue
        found = _version(wish.name)
        if found is None or not wish.specifier.contains(found, prereleases=True):
            has = "none is installed" if found is None else f"{found} is installed"
            command = f'{sys.executable} -m pip install "{wish.name}{wish.specifier}"'
            problems.append(f"{name} needs {wish.name}{wish.specifier}, and {has}. Run: {command}")
    return problems


def encoder_state(name: str) -> EncoderState:
    """One encoder, asked without its weights."""
    try:
        encoder = encoder_class(name)
        with torch.device("meta"):
            encoder.from_config({})
    except (EncoderError, ImportError) as error:
        return EncoderState(name=name, installed=False, cached=False, missing=" ".join(str(error).split()))
    cached = _is_cached(encoder.published)
    return EncoderState(
        name=name, installed=True, cached=cached, missing="" if cached else _to_fetch(encoder.published)
    )


def devices() -> list[Device]:
    """The CPU, and every accelerator that this torch can use."""
    memory = psutil.virtual_memory()
    found = [Device(name=_processor(), kind="cpu", memory=memory.total, free=memory.available)]
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        found.append(Device(name=torch.cuda.get_device_name(index), kind="cuda", memory=total, free=free))
    if torch.backends.mps.is_available():
        found.append(Device(name="Apple GPU", kind="mps", memory=None, free=None))
    if torch.xpu.is_available():
        for index in range(torch.xpu.device_count()):
            total = torch.xpu.get_device_properties(index).total_memory
            found.append(Device(name=torch.xpu.get_device_name(index), kind="xpu", memory=total, free=None))
    return found


_VARIABLES = {"hub cache": "HF_HUB_CACHE", "data set cache": "HF_DATASETS_CACHE"}


def _folders() -> list[Folder]:
    places = {
        "hub cache": constants.HF_HUB_CACHE,
        "data set cache": os.environ.get("HF_DATASETS_CACHE", str(Path(constants.HF_HOME) / "datasets")),
    }
    found = list[Folder]()
    for purpose, place in places.items():
        path = Path(place).expanduser().absolute()
        there = next((one for one in (path, *path.parents) if one.exists()), None)  # it is made when it is needed
        found.append(
            Folder(
                purpose=purpose,
                path=str(path),
                free=None if there is None else shutil.disk_usage(there).free,
                writable=there is not None and there.is_dir() and os.access(there, os.W_OK),
            )
        )
    return found


def _is_cached(spec: EncoderSpec) -> bool:
    prefix = f"{spec.subfolder}/" if spec.subfolder else ""
    files = [prefix + name for one in (WEIGHTS, MODEL) for name in (one, f"{one}.index.json")]
    return any(isinstance(try_to_load_from_cache(spec.repo_id, file, revision=spec.revision), str) for file in files)


def _to_fetch(spec: EncoderSpec) -> str:
    if spec.gated:
        return (
            f"weights not here; gated: accept the terms of {spec.repo_id} on the hub and log in "
            "(whether you did is not known without asking the hub)"
        )
    return f"weights not here; {spec.repo_id} is downloaded when it is first used"


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    return f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
