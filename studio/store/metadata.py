"""The recipe inside a picture file.

Easel writes two text chunks into its PNGs: `parameters`, exactly as A1111 writes it, for everybody
else, and `easel`, versioned JSON with the whole request, which is the record. Reading prefers the
second. Whatever is read is somebody else's word: capped, validated, never run, never a path.
"""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from PIL import Image
from PIL.PngImagePlugin import PngInfo

import studio
from studio.core.errors import InvalidRequestError, StorageError
from studio.core.request import GenerationRequest
from studio.store.files import FORMATS, open_picture, read_bytes
from studio.store.infotext import Infotext, parse_infotext, write_infotext
from studio.store.infotext_request import request_from_infotext

CHUNK = "easel"
CHUNK_VERSION = 1
MAX_CHUNK_CHARACTERS = 1_000_000
MAX_JSON_DEPTH = 16
MAX_INFOTEXT_CHARACTERS = 65_536
EXIF_IFD = 0x8769
USER_COMMENT = 0x9286
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_REVEALING_CHUNKS = frozenset((b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"tIME"))


@dataclass(frozen=True)
class PictureRecord:
    """What a row holds besides the file itself; enough to make the row again."""

    request: GenerationRequest
    index: int = 0  # within its job
    job_id: str = ""
    seconds: float = 0.0  # drawing time
    created_at: float = 0.0  # seconds since 1970
    parent_id: int | None = None
    set_id: str = ""
    panel: int = 0
    parent: str = ""  # sha256 of the parent's file: it outlives the numbers of a lost database


@dataclass(frozen=True)
class Recipe:
    """What a file says about how it was made, whoever made it."""

    origin: Literal["easel", "a1111", ""]  # empty: nothing that we can read
    request: GenerationRequest | None = None
    record: PictureRecord | None = None  # only from our own chunk
    infotext: Infotext | None = None
    model_name: str = ""  # a hint for choosing among installed models, never a path
    model_hash: str = ""
    notices: tuple[str, ...] = ()  # sentences about what had to be changed


def png_text(record: PictureRecord) -> PngInfo:
    """Return both text chunks for a PNG."""
    request = record.request
    chunk = asdict(record) | {
        "version": CHUNK_VERSION,
        "app": f"easel {studio.__version__}",
        "model": {"name": request.model, "sha256": request.model_hash},
        "seed": request.seeds_of(record.index)[0],
    }
    info = PngInfo()
    info.add_text("parameters", write_infotext(request, record.index))
    info.add_text(CHUNK, json.dumps(chunk, ensure_ascii=False, sort_keys=True))
    return info


def encode_png(image: Image.Image, record: PictureRecord) -> bytes:
    """Return the PNG's bytes, recipe included."""
    stream = io.BytesIO()
    image.save(stream, format="PNG", pnginfo=png_text(record))
    return stream.getvalue()


def read_metadata(source: Path | bytes) -> Recipe:
    """Read a PNG's, JPEG's or WebP's recipe; one without any gives an empty `Recipe`.

    Raises `NotFoundError` and `StorageError` for files that are no pictures at all.
    """
    texts = _read_texts(read_bytes(source))
    record = parse_chunk(texts.get(CHUNK, ""))
    text = texts.get("comment") or texts.get("parameters", "")
    infotext = parse_infotext(text) if _is_infotext(text) else None
    if record is not None:
        request = record.request
        return Recipe("easel", request, record, infotext, request.model, request.model_hash)
    if infotext is None:
        return Recipe("")
    return recipe_from_infotext(infotext)


def recipe_from_text(text: str) -> Recipe:
    """Read pasted text: A1111 parameters, or our own JSON."""
    record = parse_chunk(text) if text.lstrip().startswith("{") else None
    if record is not None:
        request = record.request
        return Recipe("easel", request, record, None, request.model, request.model_hash)
    return recipe_from_infotext(parse_infotext(text)) if _is_infotext(text) else Recipe("")


def recipe_from_infotext(infotext: Infotext) -> Recipe:
    """Return the request that comes nearest to A1111's parameters, with notices."""
    request, notices = request_from_infotext(infotext)
    return Recipe(
        "a1111",
        request,
        infotext=infotext,
        model_name=infotext.parameters.get("Model", ""),
        model_hash=infotext.parameters.get("Model hash", ""),
        notices=notices,
    )


def parse_chunk(text: str) -> PictureRecord | None:
    """Read our own chunk; None if it is absent, broken or not ours.

    Unknown keys are passed over, so that a chunk of a later version still gives what we know.
    """
    if not text or len(text) > MAX_CHUNK_CHARACTERS or is_deeper_than(text, MAX_JSON_DEPTH):
        return None
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(values, dict) or not isinstance(values.get("version"), int):
        return None
    request = values.get("request")
    if not isinstance(request, dict):
        return None
    known = {field.name for field in fields(GenerationRequest)}
    try:
        wanted = GenerationRequest.from_mapping({k: v for k, v in request.items() if k in known})
    except (InvalidRequestError, OverflowError):
        return None
    return PictureRecord(
        request=wanted,
        index=_whole(values, "index", 2**16) or 0,
        job_id=_short_text(values, "job_id"),
        seconds=_seconds(values, "seconds"),
        created_at=_seconds(values, "created_at"),
        parent_id=_whole(values, "parent_id", 2**63 - 1),
        set_id=_short_text(values, "set_id"),
        panel=_whole(values, "panel", 2**16) or 0,
        parent=_short_text(values, "parent"),
    )


def strip_metadata(png: bytes) -> bytes:
    """Return the same PNG without its text, Exif and time chunks; pixels and colours unchanged.

    Raises `StorageError` if it is not a PNG.
    """
    if not png.startswith(PNG_SIGNATURE):
        raise StorageError("Only a PNG can be stripped of its recipe; download it as it is.")
    kept, position = [PNG_SIGNATURE], len(PNG_SIGNATURE)
    while position + 12 <= len(png):
        (length,) = struct.unpack_from(">I", png, position)
        end = position + 12 + length
        if png[position + 4 : position + 8] not in _REVEALING_CHUNKS:
            kept.append(png[position:end])
        position = end
    return b"".join(kept)


def is_deeper_than(text: str, limit: int) -> bool:
    """Whether JSON text nests deeper than `limit`; brackets inside strings do not count."""
    depth, inside, escaped = 0, False, False
    for character in text:
        if escaped:
            escaped = False
        elif inside:
            escaped = character == "\\"
            inside = character != '"'
        elif character == '"':
            inside = True
        elif character in "[{":
            depth += 1
            if depth > limit:
                return True
        elif character in "]}":
            depth -= 1
    return False


def _read_texts(content: bytes) -> Mapping[str, str]:
    """Return 'parameters', our chunk and 'comment' (Exif UserComment) as far as present."""
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            texts = {
                key: str(image.info[key])
                for key in ("parameters", CHUNK)
                if isinstance(image.info.get(key), str)
            }
            if image.format != "PNG" or "exif" in image.info:
                texts["comment"] = _user_comment(image)
    except (
        OSError,
        SyntaxError,
        ValueError,
        KeyError,
        IndexError,
        TypeError,
        struct.error,
        zlib.error,
        Image.DecompressionBombError,
        Image.DecompressionBombWarning,
    ) as error:
        open_picture(content)  # says what is wrong with it, if more than its metadata is
        del error
        return {}
    return texts


def _user_comment(image: Image.Image) -> str:
    exif = image.getexif()
    raw = exif.get_ifd(EXIF_IFD).get(USER_COMMENT) or exif.get(USER_COMMENT) or b""
    if isinstance(raw, str):
        return raw
    return decode_user_comment(bytes(raw)) if isinstance(raw, bytes) else ""


def decode_user_comment(raw: bytes) -> str:
    """Decode Exif's UserComment: 8 bytes name the encoding; UTF-16 of either byte order."""
    prefix, rest = raw[:8], raw[8 : 8 + 4 * MAX_INFOTEXT_CHARACTERS]
    if prefix == b"UNICODE\0":
        big = rest.decode("utf-16-be", errors="ignore")
        little = rest.decode("utf-16-le", errors="ignore")
        # Text in the wrong order turns its ASCII into other scripts.
        return max((big, little), key=lambda text: sum(c < "\x80" for c in text))
    if prefix in (b"ASCII\0\0\0", b"JIS\0\0\0\0\0"):
        return rest.decode("ascii" if prefix.startswith(b"A") else "iso2022_jp", errors="ignore")
    return raw.decode("utf-8", errors="ignore")


def _is_infotext(text: str) -> bool:
    """Not JSON of other studios, and of a length that a recipe has."""
    return bool(text) and len(text) <= MAX_INFOTEXT_CHARACTERS and not text.lstrip().startswith("{")


def _whole(values: Mapping[str, Any], key: str, limit: int) -> int | None:
    value = values.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= limit:
        return None
    return value


def _seconds(values: Mapping[str, Any], key: str) -> float:
    value = values.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e11:
        return 0.0
    return float(value)


def _short_text(values: Mapping[str, Any], key: str) -> str:
    value = values.get(key)
    allowed = isinstance(value, str) and len(value) <= 64
    return (
        "".join(c for c in value if c.isascii() and (c.isalnum() or c in "-_")) if allowed else ""
    )
