"""Answers as they come, to a JSON list and a CSV table; whatever ends the command, both hold the finished ones, whole."""

from __future__ import annotations

import contextlib
import csv
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from swinkit.cli.common import Output, output_file, table_cell
from swinkit.cli.stopping import Stopping
from swinkit.errors import SwinkitError


def write_table(path: str, columns: Sequence[str], rows: Iterable[dict[str, Any]]) -> None:
    """Write rows as a CSV with a head to a file, or to stdout for "-"."""
    with output_file(path) as file:
        table = csv.writer(file)
        table.writerow(columns)
        table.writerows([table_cell(str(row[name])) for name in columns] for row in rows)


@contextlib.contextmanager
def row_files(json_file: str | None, csv_file: str | None, stopping: Stopping) -> Iterator[Callable[[Any], None]]:
    """Yield a function that adds a result to the files asked for.

    The files appear when the body ends; when it ends by an error or a signal, then if there is a result. A file that cannot be
    written does not appear, and does not keep the other from it.
    """
    files: list[_Rows] = []
    ended: BaseException | None = None
    count = 0

    def write(result: Any) -> None:
        nonlocal count
        for file in files:
            file.add(result)
        count += 1

    try:
        for path, rows in ((json_file, _JsonList), (csv_file, _CsvTable)):
            if path is not None:
                files.append(rows(path))
        yield write
    except BaseException as error:  # noqa: BLE001 - raised again below, after the files
        ended = error
    with stopping.held():
        for file in files:
            try:
                file.finish(keep=ended is None or count > 0)
            except SwinkitError as error:
                ended = ended or error
    if ended is not None:
        raise ended


class _Rows:
    """One file of rows.

    Args:
        path: of the file, or "-".
    """

    def __init__(self, path: str) -> None:
        self._stack = contextlib.ExitStack()
        self._output: Output = self._stack.enter_context(output_file(path))
        self._failed: SwinkitError | None = None

    def add(self, result: Any) -> None:
        """Write what stands for one result."""
        try:
            self._write(result)
        except SwinkitError as error:
            self._failed = error
            raise

    def finish(self, keep: bool) -> None:
        """Let the file appear, or leave nothing of it."""
        if keep and self._failed is None:
            with self._stack:
                self._end()
        else:
            error = self._failed or KeyboardInterrupt()
            self._stack.__exit__(type(error), error, None)

    def _write(self, result: Any) -> None:
        raise NotImplementedError

    def _end(self) -> None:
        """Write what closes the file."""


class _JsonList(_Rows):
    """A JSON list, written item by item so that any number of results needs no memory."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._separator = "[\n"

    def _write(self, result: Any) -> None:
        self._output.write(self._separator + json.dumps(result.to_dict(), allow_nan=False))
        self._separator = ",\n"

    def _end(self) -> None:
        self._output.write("[]\n" if self._separator == "[\n" else "\n]\n")


class _CsvTable(_Rows):
    """The rows of each result, with source and error; an image that could not be read has one row with its error."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._table = csv.writer(self._output)
        self._headed = False

    def _write(self, result: Any) -> None:
        rows: list[Sequence[Any]] = []
        if not self._headed:
            rows.append(["source", *result.columns, "error"])
            self._headed = True
        source = table_cell(result.source)
        if result.error is not None:
            rows.append([source, *([""] * len(result.columns)), table_cell(result.error)])
        else:
            rows += [
                [source, *(table_cell(cell) if isinstance(cell, str) else cell for cell in cells), ""] for cells in result.rows()
            ]
        self._table.writerows(rows)
