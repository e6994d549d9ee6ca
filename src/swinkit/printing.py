"""Aligned columns for a terminal. Plain Python."""

from __future__ import annotations

from swinkit.errors import shown


def table(rows: list[list[str]]) -> list[str]:
    """Return rows as lines of aligned columns, the first to the left, the others to the right.

    Not rich's tables, which cut or wrap cells at the width of the terminal: these lines are also read by programs.
    """
    rows = [[shown(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for first, *others in rows:
        cells = [first.ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return lines
