"""Reading one component of a published repository: its folder, its configuration, and only the tensors asked for."""

import json
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled
from safetensors import SafetensorError, safe_open

from theworld_encoders.errors import EncoderError

WEIGHTS = "diffusion_pytorch_model.safetensors"
INDEX = WEIGHTS + ".index.json"


def find_root(source: str | Path, subfolders: tuple[str, ...], revision: str | None) -> Path:
    """The local folder of a repository; of a hub id ``subfolders`` are downloaded, nothing else.

    Raises:
        EncoderError: there is no such folder or repository.
    """
    root = Path(source)
    return root if root.is_dir() else _download(str(source), subfolders, revision)


def find_component(source: str | Path, subfolder: str, revision: str | None) -> Path:
    """The local folder of one component; a hub id is downloaded, that component only.

    Raises:
        EncoderError: there is no such folder or repository, or it holds no such component.
    """
    folder = find_root(source, (subfolder,), revision) / subfolder
    if not (folder / "config.json").is_file():
        raise EncoderError(
            f"{source} has no {subfolder}/config.json. Give a folder or hub id with the published layout."
        )
    return folder


def read_config(folder: Path, class_name: str) -> dict[str, Any]:
    """The component's configuration, without the entries that start with an underscore.

    Raises:
        EncoderError: it is no JSON object, or describes another class.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise EncoderError(f"{path} is no JSON: {error}. Fetch the checkpoint again.") from error
    found = config.get("_class_name") if isinstance(config, dict) else None
    if found != class_name:
        raise EncoderError(f"{path} describes {found}, not {class_name}. Give the folder of a {class_name} checkpoint.")
    return {key: value for key, value in config.items() if not key.startswith("_")}


def read_tensors(folder: Path, prefixes: tuple[str, ...]) -> dict[str, torch.Tensor]:
    """The tensors whose names start with one of ``prefixes``; nothing else is read from disk.

    Raises:
        EncoderError: no safetensors file is there, or one is damaged.
    """
    if (folder / INDEX).is_file():
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
        files = sorted({file for key, file in index.items() if key.startswith(prefixes)})
    else:
        files = [WEIGHTS]
    tensors: dict[str, torch.Tensor] = {}
    for file in files:
        if not (folder / file).is_file():
            raise EncoderError(f"{folder} has no {file}. Fetch the checkpoint again; pickled weights are not read.")
        try:
            with safe_open(folder / file, framework="pt") as archive:
                tensors |= {key: archive.get_tensor(key) for key in archive.keys() if key.startswith(prefixes)}  # noqa: SIM118
        except SafetensorError as error:
            raise EncoderError(f"{folder / file} is damaged: {error}. Fetch the checkpoint again.") from error
    return tensors


def load_exactly(module: torch.nn.Module, tensors: dict[str, torch.Tensor], folder: Path) -> None:
    """Copy ``tensors`` into ``module``'s parameters; names and shapes must be the same on both sides.

    Raises:
        EncoderError: names or shapes differ; the message names the first of them.
    """
    wanted = dict(module.named_parameters())
    shapes = {key: tuple(value.shape) for key, value in wanted.items()}
    found = {key: tuple(value.shape) for key, value in tensors.items()}
    differing = sorted(key for key in {*shapes, *found} if shapes.get(key) != found.get(key))
    if differing:
        key = differing[0]
        raise EncoderError(
            f"{folder}: {len(differing)} tensors do not fit config.json; {key} is {found.get(key, 'missing')}, "
            f"not {shapes.get(key, 'expected')}. Use weights and configuration of one checkpoint."
        )
    with torch.no_grad():
        for key, parameter in wanted.items():
            parameter.copy_(tensors[key])


def _download(repo_id: str, subfolders: tuple[str, ...], revision: str | None) -> Path:
    if repo_id.count("/") != 1 or repo_id.startswith((".", "/", "~")):
        raise EncoderError(f"there is no folder {repo_id}. Give an existing folder or a hub id such as owner/name.")
    try:
        return Path(snapshot_download(repo_id, revision=revision, allow_patterns=[f"{name}/*" for name in subfolders]))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        reason = str(error).strip().splitlines()[0]
        raise EncoderError(
            f"{repo_id} is no folder here and the hub did not give it ({reason}). "
            "Check the name, the network, and for a gated repository your token and its terms."
        ) from error
