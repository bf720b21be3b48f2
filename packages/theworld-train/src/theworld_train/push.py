"""What a checkpoint becomes on the hub: an adapter or a whole model, with a card, in one commit."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HTTPError

from theworld_fusion.hub import DESCRIPTION, WEIGHTS
from theworld_train.bases import Base
from theworld_train.checkpoints import check_content, checkpoints
from theworld_train.errors import UsageError
from theworld_train.recipe import Recipe
from theworld_train.recipe_checks import TINY
from theworld_train.recipe_file import RECIPE, load_recipe

CARD = "README.md"
Files = dict[str, Path | bytes]
"""What is uploaded: path in the repository, and the file or its content."""
_NO_PROSE = "tokenizer.json"
"""Any word may be in a vocabulary."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A whole one of a run."""

    run: Path
    folder: Path
    step: int
    recipe: Recipe

    @property
    def toy(self) -> Path | None:
        """Folder of its toy pair, if it was trained on one."""
        return self.run / TINY if self.recipe.model.vlm == TINY else None

    def description(self) -> dict[str, Any]:
        """The adapter's own."""
        return json.loads((self.folder / DESCRIPTION).read_text(encoding="utf-8"))


def find_checkpoint(path: Path) -> Checkpoint:
    """The newest whole checkpoint of a run, or the one that ``path`` is.

    Raises:
        UsageError: there is none, or it is damaged.
    """
    path = path.resolve()
    is_one = (path / DESCRIPTION).is_file()
    run = path.parent if is_one else path
    whole = [(step, folder) for step, folder in checkpoints(run) if folder == path or not is_one]
    if not whole or not (whole[-1][1] / RECIPE).is_file():
        raise UsageError(f"{path} holds no whole checkpoint of theworld train. Give a run's folder or a checkpoint's.")
    step, folder = whole[-1]
    check_content(folder)
    return Checkpoint(run=run, folder=folder, step=step, recipe=load_recipe(str(folder / RECIPE)))


def adapter_files(checkpoint: Checkpoint, bases: list[Base]) -> Files:
    """The adapter, with its bases named as others find them, and a toy pair's files beside it.

    Raises:
        UsageError: a base is a folder here, which nobody else has.
    """
    description = checkpoint.description()
    assembly, inside = description["assembly"], {}
    files: Files = {WEIGHTS: checkpoint.folder / WEIGHTS}
    for base in bases:
        if base.toy:
            inside[base.role] = f"bases/{base.role}"
            assembly[base.role] = f"./bases/{base.role}"  # no name that the hub could have
            files |= folder_files(base.toy, inside[base.role])
        elif base.hub_id is None:
            raise UsageError(
                f"the adapter goes onto {base.source}, a {base.role} that nobody else has. "
                f"Name the same one on the hub (--base-{base.role} owner/name), or push the whole model (--full)."
            )
        elif base.hub_id != base.source:
            revision = "revision" if base.role == "vlm" else "world_revision"
            assembly |= {base.role: base.hub_id, revision: base.revision}
    description["beside"] = inside
    for lora in description["lora"].values():
        lora["base_model_name_or_path"] = None  # peft writes it, and nothing here reads it
    files[DESCRIPTION] = (json.dumps(description, indent=2, ensure_ascii=False, sort_keys=True) + "\n").encode()
    return files


def write_whole(checkpoint: Checkpoint, folder: Path) -> None:
    """Model and processor in the recipe's precision, as the Auto classes load them; LoRA becomes part of its layers.

    Raises:
        CheckpointError: a base is not where it was, or is another one.
    """
    import torch

    from theworld_fusion import load_adapter
    from theworld_train.lora import merge_lora

    toy = checkpoint.toy  # where the run lies now
    model, processor = load_adapter(
        checkpoint.folder,
        vlm=toy and toy / "vlm",
        world=toy and toy / "world",
        dtype=getattr(torch, checkpoint.recipe.model.dtype),
    )
    merge_lora(model)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def folder_files(folder: Path, prefix: str = "") -> Files:
    """All files below ``folder``."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {(Path(prefix) / path.relative_to(folder)).as_posix(): path for path in paths}


def size(content: Path | bytes) -> int:
    """In bytes."""
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def check_private(files: Files, secrets: Mapping[str, str]) -> None:
    """See that no text that is uploaded tells what is nobody's business.

    Args:
        secrets: the strings to look for, and what to call them: this machine's paths, the token.

    Raises:
        UsageError: a file has one of them.
    """
    for name, content in files.items():
        if Path(name).suffix not in (".json", ".jinja", ".md", ".py") or Path(name).name == _NO_PROSE:
            continue
        text = (content if isinstance(content, bytes) else content.read_bytes()).decode("utf-8", "replace")
        for secret, what in secrets.items():
            if secret in text:
                raise UsageError(f"{name} would hold {what}. Nothing was uploaded; mend the recipe or the bases.")


def secrets_of(checkpoint: Checkpoint, bases: list[Base], token: str | None) -> dict[str, str]:
    """What ``check_private`` looks for: folders of the run, of local bases and of the user, and the token."""
    local = [base.source for base in bases if base.hub_id != base.source]
    paths = [str(checkpoint.run), f"{Path.home()}{os.sep}", *(os.path.abspath(source) for source in local)]
    paths += [source for source in local if os.sep in source]  # a bare name may be a word
    return dict.fromkeys(paths, "a path of this machine") | ({token: "the token"} if token else {})


def upload(
    files: Files, repo: str, token: str, *, private: bool = False, revision: str | None = None, message: str
) -> str:
    """Put the files into a repository of the hub, which is made if need be, in one commit; returns the commit's URL.

    ``upload_folder`` would be several commits where the hub's own storage is installed, and an adapter is only right
    with its description.

    Args:
        private: nobody else may see the repository.
        revision: branch to write to, which is made if need be; default: ``main``.

    Raises:
        UsageError: the token may not do this, the hub cannot be reached, the repository is public and ``private`` is
            set, or it holds the other kind of model.
    """
    api = HfApi(token=token)
    with _one_line(repo, token):
        api.create_repo(repo, private=private or None, exist_ok=True)
        if private and not api.model_info(repo).private:
            raise UsageError(
                f"{repo} is there already, and public. Make it private on the hub, or leave --private out."
            )
        if revision is not None:
            api.create_branch(repo, branch=revision, exist_ok=True)
        there = {one.rfilename for one in api.model_info(repo, revision=revision).siblings or ()}
        if (DESCRIPTION in there and DESCRIPTION not in files) or ("config.json" in there and DESCRIPTION in files):
            kinds = ("a whole model", "an adapter") if DESCRIPTION in files else ("an adapter", "a whole model")
            raise UsageError(
                f"{repo} holds {kinds[0]}, and this is {kinds[1]}: together neither would be found. "
                "Push it to another repository."
            )
        operations: list[Any] = [CommitOperationAdd(name, files[name]) for name in sorted(files)]
        # Weights of an earlier push under another name would be loaded beside the new ones, or in their place.
        stale = sorted(name for name in there - set(files) if "/" not in name and ".safetensors" in name)
        operations += [CommitOperationDelete(name) for name in stale]
        return api.create_commit(repo, operations, commit_message=message, revision=revision).commit_url


@contextmanager
def _one_line(repo: str, token: str) -> Iterator[None]:
    """What the hub and the network say, as one sentence of fact and one of remedy."""
    try:
        yield
    except (HTTPError, OSError, RuntimeError) as error:
        cause = error if getattr(error, "response", None) is not None else error.__cause__ or error
        status = getattr(getattr(cause, "response", None), "status_code", None)
        reason = " ".join((str(cause).strip() or type(cause).__name__).split("\n", 1)[0].split()).replace(token, "***")
        if status == 401:
            text = "the hub does not know the token (401). Log in anew: hf auth login, or set HF_TOKEN."
        elif status == 403:
            text = f"the token may not write to {repo} (403). Use one with write access to it."
        else:
            text = f"{repo} cannot be written ({reason}). Check its name and the network, then push again."
        raise UsageError(text) from error
