"""Rows on standard output: for people in a terminal a table, for tools columns with tabs between them."""

import sys
from collections.abc import Iterable, Sequence

from penstock.config.process import printable


def print_columns(columns: Sequence[str], rows: Iterable[Sequence[object]], folded: str = "prompt") -> None:
    """Print rows below the names of their columns; no cell is cut, and none tells the terminal what to do.

    Args:
        columns: names.
        rows: as many cells each; white space in one becomes single spaces.
        folded: the column whose cells take several lines in a terminal that is too narrow.
    """
    cells = [[printable(" ".join(str(cell).split())) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        for row in (columns, *cells):
            print("\t".join(row))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column != folded)
    for row in cells:
        table.add_row(*map(Text, row))
    Console().print(table)
