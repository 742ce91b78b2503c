"""Easel's own format as a zip that is sent while it is made: the same files, in one stream."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator

from studio.store.vote_formats.json_rows import json_line
from studio.store.vote_formats.native import EVENTS, PICTURES, event_rows, picture_row
from studio.store.vote_formats.outgoing import Outgoing, file_name

PART = 2**18  # bytes, about, that are handed over at once


class _Sink(io.RawIOBase):
    """Where a zip is written that cannot go back: keeps what nobody has taken yet."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0

    def writable(self) -> bool:
        return True

    def write(self, content: bytes) -> int:
        self._parts.append(bytes(content))
        self._size += len(content)
        return len(content)

    def take(self, at_least: int = 1) -> Iterator[bytes]:
        """Yield what waits, if it is that much."""
        if self._size >= at_least:
            content, self._parts, self._size = b"".join(self._parts), [], 0
            yield content


def zipped(out: Outgoing) -> Iterator[bytes]:
    """Yield the zip of an export in parts. Raises `NotFoundError` for a picture lost meanwhile.

    Of the pictures only names are kept in memory, some hundred bytes each.
    """
    sink, pictures = _Sink(), dict[str, str]()  # sha256 -> name of its file, once it is written
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open(EVENTS, "w", force_zip64=True) as file:
            for row, shown in event_rows(out):
                file.write(json_line(row).encode())
                pictures.update(dict.fromkeys(shown - pictures.keys(), ""))
                yield from sink.take(PART)
        for sha256 in pictures:
            content = out.content(sha256)
            pictures[sha256] = file_name(sha256, content)
            archive.writestr(pictures[sha256], content, zipfile.ZIP_STORED)
            yield from sink.take(PART)
        with archive.open(PICTURES, "w", force_zip64=True) as file:
            for sha256, name in pictures.items():
                file.write(json_line(picture_row(sha256, name)).encode())
    yield from sink.take()
