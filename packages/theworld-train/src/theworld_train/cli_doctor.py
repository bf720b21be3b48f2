"""``theworld doctor``: what is on this machine, and what of TheWorld works on it."""

import json
import sys
from dataclasses import asdict
from typing import Annotated

import typer

from theworld_train import imports
from theworld_train.cli_table import print_table


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, to paste into a bug report.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the whole traceback of an error.")] = False,
) -> None:
    """Say what is on this machine, which encoders can be used, and what each of the others is missing.

    Versions, devices and their memory, room on the disks of the caches, whether there is a token of the hub (it is
    never printed). Nothing is downloaded. Ends with exit code 1 if something that TheWorld needs is broken; an
    optional extra or weights that are not here yet are no fault.

    Example: theworld doctor --json
    """
    with imports.kept():
        from theworld_train.doctor import examine

    report = examine()
    if as_json:
        print(json.dumps(asdict(report), indent=2, ensure_ascii=False))
    else:
        print(f"Python {report.python} on {report.system}\n")
        versions = [[name, version or "not installed"] for name, version in report.versions.items()]
        print_table(["package", "version"], versions, numbers=0)
        print()
        rows = [[one.kind, _gigabytes(one.memory), _gigabytes(one.free), one.name] for one in report.devices]
        print_table(["device", "memory", "free", "name"], rows, numbers=2)
        print()
        rows = [[one.purpose, _gigabytes(one.free), one.path] for one in report.folders]
        print_table(["folder", "free", "path"], rows, numbers=1)
        token = "present" if report.hub_token else "none: hf auth login, for gated weights"
        print(f"\nhub token: {token}; hub: {'offline' if report.hub_offline else 'online'}\n")
        rows = [
            [one.name, "yes" if one.installed else "no", "yes" if one.cached else "no", one.missing]
            for one in report.encoders
        ]
        print_table(["encoder", "installed", "weights here", "what is missing"], rows, numbers=0)
    for problem in report.problems:
        print(f"theworld: {problem}", file=sys.stderr)
    if report.problems:
        raise typer.Exit(1)


def _gigabytes(size: int | None) -> str:
    return "-" if size is None else f"{size / 1e9:,.1f} GB"
