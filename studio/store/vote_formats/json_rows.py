"""JSON objects out of a file of any size: an array of them, or one a line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from studio.core.errors import ImportRefusedError
from studio.store.files import storage_error

CHUNK = 2**16  # characters read at once
MAX_ROW = 2**20  # characters of one object
_SPACE = re.compile(r"[ \t\r\n]*")


def read_json_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield ('file, row 1', object) and so on. Raises `ImportRefusedError` for anything else."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, row in enumerate(_values(file, path.name), start=1):
                where = f"{path.name}, row {number}"
                if not isinstance(row, dict):
                    raise ImportRefusedError(f"{where} is not a JSON object.")
                yield where, row
    except UnicodeDecodeError as error:
        raise ImportRefusedError(f"{path.name} is not text in UTF-8.") from error
    except OSError as error:
        raise storage_error(error, "read", path) from error


def write_json_row(file: TextIO, row: dict[str, Any]) -> None:
    """Write one object and a line's end."""
    file.write(json_line(row))


def json_line(row: dict[str, Any]) -> str:
    """Return one object with a line's end."""
    return json.dumps(row, ensure_ascii=False, separators=(",", ":"), allow_nan=False) + "\n"


class _Text:
    """A window on a file's text that moves forward."""

    def __init__(self, file: TextIO, name: str) -> None:
        self._file = file
        self._name = name
        self._decoder = json.JSONDecoder(parse_constant=_refuse_constant)
        self._buffer = ""
        self._position = 0

    def peek(self) -> str:
        """Return the next character that is no white space; '' at the end."""
        while True:
            self._position = _SPACE.match(self._buffer, self._position).end()
            if self._position < len(self._buffer):
                return self._buffer[self._position]
            if not self._read_more():
                return ""

    def take(self) -> str:
        """Return that character and go past it."""
        character = self.peek()
        self._position += 1
        return character

    def decode(self) -> Any:
        """Return the JSON value that stands here, and go past it."""
        self.peek()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._buffer, self._position)
            except ValueError as error:
                too_long = len(self._buffer) - self._position > MAX_ROW
                if too_long or not self._read_more():
                    raise _broken(self._name) from error
                continue
            except RecursionError as error:
                raise _broken(self._name) from error
            if end < len(self._buffer) or not self._read_more():  # a number may go on
                self._position = end
                return value

    def _read_more(self) -> bool:
        more = self._file.read(CHUNK)
        if more:
            self._buffer = self._buffer[self._position :] + more
            self._position = 0
        return bool(more)


def _values(file: TextIO, name: str) -> Iterator[Any]:
    """Yield each value of an array, or of a sequence of values with white space between them."""
    text = _Text(file, name)
    if text.peek() != "[":
        while text.peek():
            yield text.decode()
        return
    text.take()
    if text.peek() == "]":
        text.take()
    else:
        separator = ","
        while separator == ",":
            yield text.decode()
            separator = text.take()
        if separator != "]":
            raise _broken(name)
    if text.peek():
        raise _broken(name)


def _refuse_constant(name: str) -> float:
    raise ValueError(name)


def _broken(name: str) -> ImportRefusedError:
    return ImportRefusedError(
        f"{name} is not JSON, or holds a row longer than {MAX_ROW:,} characters. "
        "Check that it is whole and of the format that you named."
    )
