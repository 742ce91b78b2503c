"""`generate`: pictures from the command line, one JSON object each on standard output."""

from __future__ import annotations

import argparse
import json
import os
import secrets
import sys
import uuid
from pathlib import Path
from typing import Any, TextIO

from studio.core.errors import (
    DiskFullError,
    EaselError,
    InvalidRequestError,
    ModelError,
    NotFoundError,
    StorageError,
)
from studio.core.picture import Picture
from studio.core.request import MAX_SEED, GenerationRequest
from studio.core.settings import Settings
from studio.services.adapter_shelf import AdapterShelf
from studio.services.editing import USUAL_STRENGTH, with_size
from studio.services.job_view import JobView
from studio.services.model_folder import STARTER
from studio.services.models import ModelShelf
from studio.services.studio import Studio, open_studio
from studio.store.files import atomic_write, storage_error
from studio.store.sources import SourceStore

DONE, FAILED, BAD_REQUEST, STOPPED = 0, 1, 2, 130  # exit codes; 130 is Ctrl-C's
MAX_REQUEST_BYTES = 1_000_000
LOOK_EVERY = 0.5  # seconds between two looks at a job that says nothing
_FLAGS = (  # name of the flag, name of the request's field
    ("prompt", "prompt"),
    ("negative", "negative_prompt"),
    ("width", "width"),
    ("height", "height"),
    ("steps", "steps"),
    ("guidance", "guidance_scale"),
    ("sampler", "sampler"),
    ("eta", "eta"),
    ("seed", "seed"),
    ("count", "count"),
    ("model", "model"),
    ("strength", "strength"),
)


def generate(args: argparse.Namespace, settings: Settings) -> int:
    """Draw what the flags ask for and return the exit code.

    Standard output gets one line of JSON for each picture and nothing else; sentences and progress
    go to standard error. 0: all drawn. 1: it failed. 2: the request is wrong. 130: Ctrl-C, and what
    was finished is kept.
    """
    try:
        request = _with_adapter(_request(args, settings), args, settings)
        output = Path(args.output) if args.output else None
        studio = open_studio(settings, owner=False)
        try:
            return _draw(studio, request, output, _parent(studio, args))
        finally:
            studio.close()
    except InvalidRequestError as error:
        _say(str(error))
        return BAD_REQUEST
    except EaselError as error:
        _say(str(error))
        return FAILED
    except KeyboardInterrupt:
        _say("Stopped; finished pictures are kept.")
        return STOPPED


def _request(args: argparse.Namespace, settings: Settings) -> GenerationRequest:
    """Return the request that flags and file ask for; flags win.

    Pictures that flags name are kept in the data folder. The size is by default that of the picture
    to start from, else the model's own.
    """
    values = _read_request(Path(args.json_request)) if args.json_request else {}
    for flag, field in _FLAGS:
        value = getattr(args, flag, None)
        if value is not None:
            values[field] = value
    try:
        entry = ModelShelf(settings).entry(_text(values.get("model", STARTER)))
    except ModelError as error:
        raise InvalidRequestError("model", str(error)) from error
    sources = SourceStore(settings.data_dir)
    values = with_size(_with_pictures(values, args, sources), sources, entry.native_size)
    if values.get("seed", -1) == -1:  # as in other studios, -1 asks for any seed
        values["seed"] = secrets.randbelow(MAX_SEED + 1)
    return GenerationRequest.from_mapping(values)


def _with_pictures(
    values: dict[str, Any], args: argparse.Namespace, sources: SourceStore
) -> dict[str, Any]:
    """Return the values with the pictures that --init-image and --mask name, by their hash."""
    for flag, field, add in (
        ("init_image", "source", sources.add_file),
        ("mask", "mask", sources.add_mask_file),
    ):
        file = getattr(args, flag, None)
        try:
            values |= {field: add(Path(file))} if file else {}
        except DiskFullError:
            raise
        except (NotFoundError, StorageError) as error:
            raise InvalidRequestError(field, str(error)) from error
    if getattr(args, "init_image", None):
        values.setdefault("strength", USUAL_STRENGTH)
    for flag in ("mask", "strength"):
        if getattr(args, flag, None) is not None and not values.get("source"):
            raise InvalidRequestError(flag, f"--{flag} needs a picture: --init-image FILE.")
    return values


def _with_adapter(
    request: GenerationRequest, args: argparse.Namespace, settings: Settings
) -> GenerationRequest:
    """Return the request with the adapter that the flags name; its file goes onto the shelf."""
    file, strength = getattr(args, "adapter", None), getattr(args, "adapter_strength", None)
    if not file:
        if strength is not None:
            raise InvalidRequestError("adapters", "--adapter-strength needs --adapter FILE.")
        return request
    use = AdapterShelf(settings).add(Path(file)).use(1.0 if strength is None else strength)
    return request.with_changes(adapters=(*request.adapters, use))


def _read_request(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_REQUEST_BYTES:
            raise InvalidRequestError("request", f"'{path.name}' is too large for a request.")
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidRequestError(
            "request", f"The request '{path}' cannot be read: {error.strerror}."
        ) from error
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError("request", f"'{path.name}' is not JSON.") from error
    if not isinstance(values, dict):
        raise InvalidRequestError("request", f"'{path.name}' holds no JSON object with fields.")
    return values


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise InvalidRequestError("model", "The model must be text.")
    return value


def _parent(studio: Studio, args: argparse.Namespace) -> int | None:
    """Return the picture of the gallery whose file --init-image is, so that lineage is kept."""
    file = getattr(args, "init_image", None)
    parent = studio.gallery.find(Path(file)) if file else None
    return parent.id if parent else None


def _draw(
    studio: Studio, request: GenerationRequest, output: Path | None, parent_id: int | None
) -> int:
    if output is not None:
        _try_folder(output)
    job = studio.generation.submit(request, key=uuid.uuid4().hex, parent_id=parent_id)
    teller = _Teller(studio, output)
    try:
        view = teller.follow(job.id)
    except KeyboardInterrupt:
        studio.generation.cancel(job.id)
        teller.follow(job.id)  # over within a step; tells of what was finished meanwhile
        raise
    except BrokenPipeError:  # whoever read the lines has seen enough
        studio.generation.cancel(job.id)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        return FAILED
    if view.state == "done":
        return DONE
    _say(view.error or "The job was stopped before it was done.")
    if view.details:
        _say(view.details)
    return FAILED


class _Teller:
    """Tells what is new about a job, each thing once."""

    def __init__(self, studio: Studio, output: Path | None) -> None:
        self._studio = studio
        self._output = output
        self._version = 0
        self._pictures = 0
        self._notices = 0

    def follow(self, job_id: str) -> JobView:
        """Tell of each picture when it is on disk, until the job is over."""
        while True:
            view = self._studio.generation.wait(job_id, self._version, LOOK_EVERY)
            if view.version > self._version:
                show_progress(view, sys.stderr)
            self._version = view.version
            for notice in view.notices[self._notices :]:
                _say(notice)
            self._notices = len(view.notices)
            for picture in view.pictures[self._pictures :]:
                self._pictures += 1
                _print_picture(self._studio, picture, self._output)
            if view.over:
                return view


def show_progress(view: JobView, stream: TextIO) -> None:
    """Write one line that replaces itself; nothing when nobody sits at a terminal."""
    if not stream.isatty():
        return
    left = "" if view.seconds_left is None else f", {view.seconds_left:.0f} s left"
    step = f"step {view.step} of {view.steps}{left}" if view.steps else view.doing
    end = "\n" if view.over else ""
    stream.write(f"\r\x1b[K{view.state}: {step}{end}")
    stream.flush()


def _print_picture(studio: Studio, picture: Picture, output: Path | None) -> None:
    path = studio.gallery.file(picture)
    if output is not None:
        path = _copy(path, output, picture)
    line = {
        "path": str(path.resolve()),
        "seed": picture.seed,
        "width": picture.width,
        "height": picture.height,
        "seconds": round(picture.seconds, 3),
        "sha256": picture.sha256,
    }
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def _say(sentence: str) -> None:
    sys.stderr.write(f"{sentence}\n")


def _copy(path: Path, folder: Path, picture: Picture) -> Path:
    """Write the stored file's bytes, recipe included, into another folder."""
    target = folder / f"{picture.id:06d}-{picture.seed}.png"
    atomic_write(target, path.read_bytes())
    return target


def _try_folder(folder: Path) -> None:
    """Find out that a folder cannot be written before anything is drawn. Raises StorageError."""
    probe = folder / f".easel-{uuid.uuid4().hex}"
    atomic_write(probe, b"")
    try:
        probe.unlink()
    except OSError as error:
        raise storage_error(error, "delete", probe) from error
