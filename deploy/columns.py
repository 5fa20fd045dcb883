"""Rows on standard output: for people in a terminal a table, for tools columns with tabs between them."""

import sys
from collections.abc import Iterable, Sequence

from penstock.config.process import printable

_LEAST_ROOM = 24
"""Columns of the terminal below which folded cells get lines of their own."""


def print_columns(columns: Sequence[str], rows: Iterable[Sequence[object]], folded: str = "prompt") -> None:
    """Print rows below the names of their columns; no cell is cut, and none tells the terminal what to do.

    Args:
        columns: names.
        rows: as many cells each; white space in one becomes single spaces.
        folded: the last column, whose cells take several lines in a terminal that is too narrow, or lines of their own
            where hardly any room is left.
    """
    cells = [[printable(" ".join(str(cell).split())) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        for row in (columns, *cells):
            print("\t".join(row))
        return
    from rich.cells import cell_len
    from rich.console import Console
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    console = Console()
    widths = [max(map(cell_len, column)) for column in zip(columns, *cells, strict=True)]
    if columns[-1] == folded and widths[-1] > console.width - sum(widths[:-1]) - 2 * len(widths[:-1]) < _LEAST_ROOM:
        for row in (columns, *cells):
            style = "bold" if row is columns else ""
            padded = (cell + " " * (width - cell_len(cell)) for cell, width in zip(row[:-1], widths[:-1], strict=True))
            console.print(Text("  ".join(padded).rstrip(), style, overflow="fold"))
            console.print(Padding(Text(row[-1], style, overflow="fold"), (0, 0, 0, 2)))
        return
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column != folded)
    for row in cells:
        table.add_row(*map(Text, row))
    console.print(table)
