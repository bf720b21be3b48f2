"""Reading one component of a published repository: its folder, its configuration, and only the tensors asked for."""

import json
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled
from safetensors import SafetensorError, safe_open

from theworld_encoders.errors import EncoderError, first_line

WEIGHTS = "diffusion_pytorch_model.safetensors"
"""What diffusers calls a component's weights."""
MODEL = "model.safetensors"
"""What transformers calls a model's."""


def find_root(source: str | Path, subfolders: tuple[str, ...], revision: str | None, *, weights: bool = True) -> Path:
    """The local folder of a repository; of a hub id ``subfolders`` are downloaded, nothing else.

    Without ``weights``, those are their configurations alone.

    Raises:
        EncoderError: there is no such folder or repository.
    """
    root = Path(source)
    return root if root.is_dir() else _download(str(source), subfolders, revision, weights)


def find_component(source: str | Path, subfolder: str, revision: str | None, *, weights: bool = True) -> Path:
    """The local folder of one component; a hub id is downloaded, that component only (``""``: what lies at the top).

    Without ``weights``, that is its configuration alone.

    Raises:
        EncoderError: there is no such folder or repository, or it holds no such component.
    """
    folder = find_root(source, (subfolder,), revision, weights=weights) / subfolder
    if not (folder / "config.json").is_file():
        config = Path(subfolder, "config.json")
        raise EncoderError(f"{source} has no {config}. Give a folder or hub id with the published layout.")
    return folder


def read_config(folder: Path, *kinds: str, key: str = "_class_name") -> dict[str, Any]:
    """The component's configuration, without the entries that start with an underscore.

    Args:
        folder: where its ``config.json`` lies.
        kinds: what may stand under ``key``: classes of diffusers, or model types of transformers; by default anything.
        key: ``_class_name`` or ``model_type``.

    Raises:
        EncoderError: it is no JSON object, or describes something else.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise EncoderError(f"{path} is no JSON: {error}. Fetch the checkpoint again.") from error
    if not isinstance(config, dict):
        raise EncoderError(f"{path} is a JSON {type(config).__name__}, not an object. Fetch the checkpoint again.")
    found = config.get(key)
    if kinds and found not in kinds:
        wanted = " or ".join(kinds)
        raise EncoderError(f"{path} describes {found}, not {wanted}. Give the folder of a {wanted} checkpoint.")
    return {key: value for key, value in config.items() if not key.startswith("_")}


def read_tensors(folder: Path, prefixes: tuple[str, ...], weights: str = WEIGHTS) -> dict[str, torch.Tensor]:
    """The tensors whose names start with one of ``prefixes``; nothing else is read from disk.

    Raises:
        EncoderError: no safetensors file is there, or one is damaged.
    """
    index = folder / f"{weights}.index.json"
    if index.is_file():
        shards = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files = sorted({file for key, file in shards.items() if key.startswith(prefixes)})
    else:
        files = [weights]
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


def _download(repo_id: str, subfolders: tuple[str, ...], revision: str | None, weights: bool) -> Path:
    if repo_id.count("/") != 1 or repo_id.startswith((".", "/", "~")):
        raise EncoderError(f"there is no folder {repo_id}. Give an existing folder or a hub id such as owner/name.")
    try:
        top = ["config.json", "model*.safetensors", f"{MODEL}.index.json"]
        if weights:
            patterns = [pattern for name in subfolders for pattern in ([f"{name}/*"] if name else top)]
        else:
            patterns = [f"{name}/config.json".lstrip("/") for name in subfolders]
        return Path(snapshot_download(repo_id, revision=revision, allow_patterns=patterns))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise EncoderError(
            f"{repo_id} is no folder here and the hub did not give it ({first_line(error)}). "
            "Check the name, the network, and for a gated repository your token and its terms."
        ) from error
