"""Tables of files and labels: bounded, UTF-8, every row with the number of its line."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from swinkit.errors import DatasetError, nearest

MAX_TABLE_BYTES = 256 * 2**20  # a line for each of ImageNet's 1.3 million pictures has 60
_FORMULA = frozenset("=+-@\t\r\n＝＋－＠")  # how a cell begins that spreadsheets run


def read_rows(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """Return (line, fields by column name) of every row of a CSV, TSV or JSON-lines file.

    Raises:
        DatasetError: too large, no UTF-8, no table, no rows, or rows of different columns.
    """
    text = read_text(path)
    try:
        if path.suffix.lower() == ".jsonl":
            rows = [(line, json.loads(row)) for line, row in enumerate(text.split("\n"), 1) if row.strip()]
        else:
            mark = "\t" if path.suffix.lower() == ".tsv" else ","
            reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=mark, strict=True)
            rows = [(reader.line_num, row) for row in reader]
    except (ValueError, csv.Error, RecursionError) as error:
        raise DatasetError(f"{path}: cannot be read as a table ({error})") from error
    if not rows:
        raise DatasetError(f"{path}: has no rows")
    for line, row in rows:
        if path.suffix.lower() == ".jsonl":
            if not isinstance(row, dict) or row.keys() != rows[0][1].keys():
                raise DatasetError(f"{path}, line {line}: every line must be one JSON object with the same keys")
        elif None in row or None in row.values():
            raise DatasetError(f"{path}, line {line}: has another number of columns than the head")
    return rows


def column(path: Path, fields: list[str], names: tuple[str, ...]) -> str:
    """Return the first of ``names`` that is a column, spelled as the file does.

    Raises:
        DatasetError: none is there.
    """
    for wanted in names:
        for name in fields:
            if name and name.strip().lower() == wanted:
                return name
    found = ", ".join(str(name) for name in fields[:6])
    raise DatasetError(f"{path}: has no column {names[0]!r} (found: {found}){nearest(names[0], [f for f in fields if f])}")


def read_text(path: Path) -> str:
    """Return a UTF-8 file of bounded size; a byte-order mark is dropped.

    Raises:
        DatasetError: too large, or not UTF-8.
    """
    if path.stat().st_size > MAX_TABLE_BYTES:
        raise DatasetError(f"{path}: {path.stat().st_size:,} bytes are too many for a table")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: is not UTF-8 text (byte {error.start}); save it as UTF-8") from error


def spreadsheet_safe(text: str) -> str:
    """Return a cell of a CSV that no spreadsheet takes for a formula: what begins like one gets an apostrophe; numbers stay."""
    if text.lstrip(" ")[:1] not in _FORMULA:
        return text
    try:
        float(text)
    except ValueError:
        return f"'{text}"
    return text


def numbers_first(label: str) -> tuple[bool, int, str]:
    """Return a sort key that orders numbers as numbers, before words."""
    number = label.isdecimal() and len(label) <= 18
    return not number, int(label) if number else 0, label
