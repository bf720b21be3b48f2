"""``theworld push``: a checkpoint, on the hub."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from theworld_train import imports
from theworld_train.errors import UsageError


def push(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="RUN",
            help="Folder of a run, whose newest checkpoint is taken, or of one checkpoint.",
            show_default=False,
        ),
    ],
    repo: Annotated[str, typer.Option(help="Repository, as owner/name; it is made if need be.", show_default=False)],
    full: Annotated[
        bool, typer.Option("--full", help="The whole model, bases included; default: the adapter, what was trained.")
    ] = False,
    private: Annotated[bool, typer.Option("--private", help="Nobody else may see the repository.")] = False,
    revision: Annotated[
        str | None, typer.Option(metavar="BRANCH", help="Branch to write to, made if need be; default: main.")
    ] = None,
    message: Annotated[str | None, typer.Option(help="Of the commit; default: the recipe's name and the step.")] = None,
    base_vlm: Annotated[
        str | None, typer.Option(help="For an adapter on a local VLM: the name that the hub has the same one under.")
    ] = None,
    base_world: Annotated[
        str | None, typer.Option(help="For an adapter on a local world model: the name that the hub has it under.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the files and the model card, and upload nothing.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the whole traceback of an error.")] = False,
) -> None:
    """Upload a run's newest checkpoint, with a model card that its files write.

    Nothing else of the run leaves the machine: no optimiser, no log, no path. An adapter names the two checkpoints that
    it goes onto, so both have to be on the hub; a toy pair goes along. The token is the one that `hf auth login` keeps,
    or HF_TOKEN.

    Example: theworld push runs/align-projector --repo me/gemma-with-a-world --private

    Then: theworld answer --model me/gemma-with-a-world --image photo.jpg "What is it?"
    """
    with imports.kept():
        from huggingface_hub import get_token
        from huggingface_hub.utils import validate_repo_id

        from theworld_train import push as job
        from theworld_train.bases import find_bases
        from theworld_train.card import make_card

    validate_repo_id(repo)
    if "/" not in repo:
        raise UsageError(f"--repo is {repo}, which has no owner. Give it as owner/name.")
    checkpoint = job.find_checkpoint(source)
    token = get_token()
    if token is None and not dry_run:
        raise UsageError("there is no token of the hub. Log in (hf auth login), or set HF_TOKEN.")
    assembly = checkpoint.description()["assembly"]
    bases = find_bases(assembly, checkpoint.toy, {"vlm": base_vlm, "world": base_world})
    with TemporaryDirectory() as folder:
        if full:
            job.write_whole(checkpoint, Path(folder))
        files = job.folder_files(Path(folder)) if full else job.adapter_files(checkpoint, bases)
        card = make_card(checkpoint, bases, repo, whole=full, revision=revision)
        files[job.CARD] = card.encode()
        job.check_private(files, job.secrets_of(checkpoint, bases, token))
        if dry_run or token is None:
            for name, content in sorted(files.items()):
                print(f"{job.size(content):>15,}  {name}")
            print(f"\n{card}", end="")
            return
        message = message or f"{checkpoint.recipe.name}, step {checkpoint.step}"
        print(job.upload(files, repo, token, private=private, revision=revision, message=message))
