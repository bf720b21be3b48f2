"""An adapter's files, from the hub: those alone, all of one commit."""

import json
from pathlib import Path, PurePosixPath

from huggingface_hub import hf_hub_download, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, HFValidationError, HTTPError
from huggingface_hub.utils import validate_repo_id

from theworld_encoders.errors import first_line
from theworld_fusion.errors import CheckpointError

WEIGHTS = "theworld_adapter.safetensors"
DESCRIPTION = "theworld_adapter.json"


def is_hub_id(source: str | Path) -> bool:
    """Whether ``source`` can only be meant as ``owner/name`` on the hub: it is written so, and no such path is here."""
    try:
        validate_repo_id(str(source))
    except HFValidationError:
        return False
    return str(source).count("/") == 1 and not Path(source).exists()


def commit_of(source: str | Path, revision: str | None = None) -> str | None:
    """The commit of a checkpoint whose ``config.json`` was just read from the hub; ``None`` for a folder."""
    if Path(source).is_dir():
        return None
    path = try_to_load_from_cache(str(source), "config.json", revision=revision)
    return Path(path).parent.name if isinstance(path, str) else None


def is_adapter(source: str | Path, *, revision: str | None = None) -> bool:
    """Whether a folder, or a repository of the hub, is what ``save_adapter`` wrote; False where nobody can tell."""
    if not is_hub_id(source):
        return (Path(source) / DESCRIPTION).is_file()
    try:
        hf_hub_download(str(source), DESCRIPTION, revision=revision)
    except (EntryNotFoundError, HTTPError, OSError):
        return False
    return True


def adapter_folder(source: str | Path, *, revision: str | None = None) -> Path:
    """The folder of an adapter: ``source`` itself, or the cache's after its files were fetched from the hub.

    The commit that ``revision`` names is looked up once. Adapter, and bases that lie in its repository, are of that
    commit; nothing else is fetched. Without a network, what the cache has of the revision is used.

    Raises:
        CheckpointError: ``revision`` is given for a folder, or the hub does not give the files.
    """
    if not is_hub_id(source):
        if revision is not None:
            raise CheckpointError(f"{source} is a folder here, which has no revision {revision}. Leave it out.")
        return Path(source)
    try:
        description = Path(hf_hub_download(str(source), DESCRIPTION, revision=revision))
        inside = json.loads(description.read_text(encoding="utf-8")).get("beside", {}).values()
        wanted = [DESCRIPTION, WEIGHTS, *(f"{base}/*" for base in inside if ".." not in PurePosixPath(base).parts)]
        # In the cache, a file lies in the folder of its commit.
        return Path(snapshot_download(str(source), revision=description.parent.name, allow_patterns=wanted))
    except (
        EntryNotFoundError,
        HTTPError,
        OSError,
        ValueError,
        TypeError,
        AttributeError,
    ) as error:  # no hub, or no description
        raise CheckpointError(
            f"{source} is no folder here, and the hub gave no adapter of that name ({first_line(error)}). Check the "
            "path or name, the revision, the network, and for a private repository your token."
        ) from error
