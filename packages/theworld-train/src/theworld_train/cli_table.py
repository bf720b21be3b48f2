"""Tables on standard output."""

import sys


def print_table(header: list[str], rows: list[list[str]], *, numbers: int) -> None:
    """A name, then ``numbers`` columns of numbers, then text, which alone is wrapped."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for index, title in enumerate(header):
        is_number = 1 <= index <= numbers
        table.add_column(title, justify="right" if is_number else "left", no_wrap=index <= numbers)
    for row in rows:
        table.add_row(*row)
    # Into a file or pipe, a row is a line.
    width = None if sys.stdout.isatty() else 240
    Console(width=width, markup=False, highlight=False, emoji=False).print(table)
