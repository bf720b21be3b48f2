"""``theworld compare``: two evaluations, question by question."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from theworld_train import imports

if TYPE_CHECKING:
    from theworld_train.evaluate.compare import Comparison, FamilyComparison
    from theworld_train.evaluate.records import Record

_SHOWN = 5
"""Differing questions that are printed."""


def compare(
    a: Annotated[Path, typer.Argument(help="Folder of an evaluation.", show_default=False)],
    b: Annotated[Path, typer.Argument(help="Folder of another one, of the same questions.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option(help="Write all questions on which the two scored otherwise to this JSONL file.")
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show the whole traceback of an error.")] = False,
) -> None:
    """By how much is A better than B, and may that be chance?

    Both are folders of theworld evaluate, of the same task. For each family of questions: both scores, their
    difference with its 95 % interval, and p: how often a difference as large would come about if the two were the same
    thing. Questions that share a picture or a set of matched clips count as one. Then what the two were asked with, and
    the first questions on which they differ.

    Example: theworld compare results/on results/off --out differing.jsonl
    """
    with imports.kept():
        from theworld_train.cli_table import print_table
        from theworld_train.evaluate.compare import compare_folders, write_differing

    found = compare_folders(a, b)
    print(f"A: {a}\nB: {b}\n")
    header = ["family", "A", "B", "A - B", "95 % interval", "p", "n", "groups", "A better", "B better"]
    print_table(header, [_row(family) for family in found.families], numbers=9)
    if found.left_out:
        print(f"\n{found.left_out} questions are left out: in one of the two they could not be asked.")
    _settings(found)
    if found.differing:
        print(f"\n{len(found.differing)} questions are scored otherwise; the first:")
        for x, y in found.differing[:_SHOWN]:
            print(f"  {x.key}: wanted {x.wanted!r}, A {_answer(x)}, B {_answer(y)}")
    if out is not None:
        write_differing(found, out)
        print(f"\nall of them: {out}")


def _settings(found: "Comparison") -> None:
    print(
        "\ntokens of a question, mean: " + ", ".join(f"{k} {a:,.1f} and {b:,.1f}" for k, (a, b) in found.tokens.items())
    )
    for name, (one, other) in found.settings.items():
        print(f"they differ in {name}: {one} and {other}")


def _row(row: "FamilyComparison") -> list[str]:
    counts = [str(row.better), str(row.worse)]
    if row.paired is None:
        return [row.family, "-", "-", "-", "-", "-", "0", "0", *counts]
    paired = row.paired
    scores = [f"{100 * (value or 0):.1f} %" for value in (row.a, row.b)]
    interval = f"{100 * paired.low:+.1f} to {100 * paired.high:+.1f}"
    p = "< 0.001" if paired.p < 0.001 else f"{paired.p:.3f}"
    return [
        row.family,
        *scores,
        f"{100 * paired.difference:+.1f}",
        interval,
        p,
        str(row.items),
        str(paired.groups),
        *counts,
    ]


def _answer(record: "Record") -> str:
    text = repr(record.answer)
    score = "unreadable" if record.score is None else f"{record.score:g}"
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({score})"
