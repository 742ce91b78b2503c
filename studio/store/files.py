"""Durable files, and a loader for pictures that nobody vouches for.

A write is temporary name, fsync, rename, fsync of the folder: after a crash there is the whole file
or none. A picture is checked before it is decoded: Pillow alone decodes 169 million pixels from a
20 kB file with a mere warning, and a progressive JPEG of 3,000 scans for half a minute.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import secrets
import time
import warnings
from pathlib import Path

from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from studio.core.errors import DiskFullError, NotFoundError, StorageError

FORMATS = ("PNG", "JPEG", "WEBP")
MAX_PIXELS = 64_000_000
MAX_FILE_BYTES = 256 * 2**20  # an uncompressed PNG of MAX_PIXELS in RGBA
MAX_JPEG_SCANS = 100  # usual progressive files have about 10
AS_IT_IS = "L, RGB or RGBA"  # whichever loses nothing: for pictures that are to be edited
CLOCK_GRAIN = 0.5  # seconds; file systems stamp a little before the clock
ABANDONED_AFTER = 600.0  # seconds; where a process cannot be asked whether it lives

# Process-wide on purpose, and at import: the page's library opens some files before our code.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS
warnings.simplefilter("error", Image.DecompressionBombWarning)


def atomic_write(path: Path, content: bytes) -> None:
    """Write `content` to `path`, durably, all or nothing; makes the folder.

    Raises `DiskFullError` or `StorageError`; then no part of the file is left behind.
    """
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            _write_and_flush(temporary, content)
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        flush_folder(path.parent)
    except OSError as error:
        raise storage_error(error, "write", path) from error


def _write_and_flush(path: Path, content: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags, 0o644)
    try:
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_folder(folder: Path) -> None:
    """Make a rename inside `folder` survive a power cut; Windows offers no such call."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def storage_error(error: OSError, verb: str, path: Path) -> StorageError:
    """Return the sentence for a failed file operation: 'could not {verb} {path}'."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFullError(
            f"The disk is full: could not {verb} {path}. Free some space and try again; "
            "everything saved before is kept."
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StorageError(
            f"Not allowed to {verb} {path}. Make the folder writable for you, "
            "or choose another with --data-dir."
        )
    said = error.strerror or str(error)
    return StorageError(f"Could not {verb} {path} ({said}). Check the folder and try again.")


def remove(path: Path) -> None:
    """Delete a file, if it is there. Raises `StorageError`."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise storage_error(error, "delete", path) from error


def sweep_temporaries(folder: Path, opened_at: float) -> int:
    """Remove what a killed `atomic_write` left under `folder`; returns how many files.

    Files of another process that still lives are left alone, and of this one those that are not
    older than `opened_at`, in seconds since 1970. (In a container a restart has the same number.)
    """
    swept = 0
    for path in folder.rglob("*.tmp-*"):
        if path.is_file() and is_abandoned(path, opened_at):
            path.unlink(missing_ok=True)
            swept += 1
    return swept


def is_abandoned(path: Path, opened_at: float) -> bool:
    """Whether a '*.tmp-{process}-*' was left behind; see `sweep_temporaries`."""
    owner = path.name.rpartition(".tmp-")[2].partition("-")[0]
    try:
        written_at = path.stat().st_mtime
    except FileNotFoundError:  # renamed in between
        return False
    if owner == str(os.getpid()):
        return written_at < opened_at - CLOCK_GRAIN
    if os.name != "nt" and owner.isascii() and owner.isdigit() and 0 < int(owner) < 2**31:
        try:
            os.kill(int(owner), 0)  # asks only; Windows would kill
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return False
    return time.time() - written_at > ABANDONED_AFTER


def open_picture(source: Path | bytes, mode: str = "RGB") -> Image.Image:
    """Decode a picture that may be hostile: PNG, JPEG or WebP, at most 64 million pixels.

    Turned upright by its Exif, converted to sRGB by its colour profile, and to `mode`: 'RGB' drops
    alpha, 'RGBA' keeps it, 'L' is grey, `AS_IT_IS` keeps grey grey and alpha where there is any.
    Raises `NotFoundError`, or `StorageError` with the reason.
    """
    content = read_bytes(source)
    name = source.name if isinstance(source, Path) else "This picture"
    if count_jpeg_scans(content, MAX_JPEG_SCANS + 1) > MAX_JPEG_SCANS:
        raise StorageError(
            f"{name} has more than {MAX_JPEG_SCANS} scans and was not opened. "
            "Save it anew as a PNG or an ordinary JPEG."
        )
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as opened:
            _check_size(opened, name)
            _refuse_animation(opened, name)
            opened.load()
            return _to_srgb(ImageOps.exif_transpose(opened), mode)
    except UnidentifiedImageError as error:
        raise StorageError(f"{name} is not a PNG, JPEG or WebP picture; save it as one.") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(name) from error
    except (OSError, SyntaxError, ValueError, IndexError, KeyError, OverflowError) as error:
        raise StorageError(
            f"{name} is damaged and could not be decoded. Save it anew and try again."
        ) from error


def read_bytes(source: Path | bytes) -> bytes:
    """Return the bytes of a file, which may not be larger than a picture can be.

    Raises `NotFoundError` and `StorageError`.
    """
    if isinstance(source, bytes):
        return source
    try:
        with source.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError as error:
        raise NotFoundError(f"{source.name} is not there any more; choose another file.") from error
    except OSError as error:
        raise storage_error(error, "read", source) from error
    if len(content) > MAX_FILE_BYTES:
        raise StorageError(
            f"{source.name} is larger than {MAX_FILE_BYTES >> 20} MB; save it smaller."
        )
    return content


def count_jpeg_scans(content: bytes, limit: int) -> int:
    """Count the scans of a JPEG (0 for anything else), stopping at `limit`.

    Inside entropy-coded bytes 0xFF is always followed by 0 or a restart marker, so every 0xFFDA is
    a scan; one inside a comment or thumbnail is counted too, which only makes the cap stricter.
    """
    if not content.startswith(b"\xff\xd8"):
        return 0
    scans, position = 0, content.find(b"\xff\xda")
    while position >= 0 and scans < limit:
        scans += 1
        position = content.find(b"\xff\xda", position + 2)
    return scans


def _check_size(image: Image.Image, name: str) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise _too_large(name)


def _refuse_animation(image: Image.Image, name: str) -> None:
    """Nobody knows which of many pictures is meant; a camera's second picture is no animation."""
    if image.format in ("PNG", "WEBP") and getattr(image, "n_frames", 1) > 1:
        raise StorageError(
            f"{name} is an animation of {image.n_frames} pictures and was not opened. "
            "Save the one that you want as a PNG."
        )


def _too_large(name: str) -> StorageError:
    return StorageError(
        f"{name} has more than {MAX_PIXELS:,} pixels and was not opened. Make it smaller first."
    )


def _to_srgb(image: Image.Image, mode: str) -> Image.Image:
    """Convert by the embedded profile; a broken or unfitting one is dropped."""
    profile = image.info.get("icc_profile")
    alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
    if profile:
        if image.mode in ("P", "PA", "LA", "RGBA"):
            image = image.convert("RGB")
        # If that fails, the plain conversion below is the next best reading.
        with contextlib.suppress(ImageCms.PyCMSError, OSError, ValueError):
            image = ImageCms.profileToProfile(
                image,
                ImageCms.ImageCmsProfile(io.BytesIO(profile)),
                ImageCms.createProfile("sRGB"),
                outputMode="RGB",
            )
    if image.mode.startswith("I"):  # 16-bit grey: PIL's own conversion would clip at 255
        image = image.point(lambda level: level / 256).convert("L")
    elif image.mode == "F":
        image = image.convert("L")
    if mode == AS_IT_IS:
        grey = "L" if image.mode in ("1", "L") else "RGB"
        mode = grey if alpha is None else "RGBA"
    converted = image.convert(mode if mode != "RGBA" else "RGB")
    if mode == "RGBA":
        converted = converted.convert("RGBA")
        if alpha is not None:
            converted.putalpha(alpha)
    converted.info.clear()
    return converted
