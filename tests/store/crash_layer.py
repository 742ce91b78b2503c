"""Run one operation of the store again and again, failing at its first, second, third ... call.

    python crash_layer.py save|purge|source|draft exit|torn|full TEMPLATE FOLDER

Each round works on its own copy of the data folder TEMPLATE, in FOLDER/{n}, in a forked process
whose n-th call of open, write, fsync, replace, unlink or commit ends it ('exit': before the call;
'torn': a write is half done) or finds the disk full from then on ('full'). The rounds end when the
operation passes. Prints one JSON object a round: n, the call, and how it ended.
"""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import sys
from pathlib import Path

from PIL import Image
from sqlalchemy import event

from studio.core.errors import EaselError
from studio.core.request import GenerationRequest
from studio.core.settings import Settings
from studio.store.database import open_database
from studio.store.drafts import DraftStore
from studio.store.pictures import PictureStore
from studio.store.sources import SourceStore

CALLS = ("open", "write", "fsync", "replace", "unlink")
NEEDS_SPACE = frozenset(("open", "write", "fsync"))
KILLED = 42


class FaultLayer:
    """Counts the calls of `os` that touch the disk, and fails from the n-th on."""

    def __init__(self, fail_at: int, mode: str) -> None:
        self.left, self.mode, self.last = fail_at, mode, ""
        for name in CALLS:
            setattr(os, name, self.wrapped(name, getattr(os, name)))

    def wrapped(self, name: str, real):
        def call(*args, **kwargs):
            self.met(name, lambda: real(args[0], bytes(args[1])[: len(args[1]) // 2]))
            if self.mode == "full" and self.left <= 0 and name in NEEDS_SPACE:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*args, **kwargs)

        return call

    def met(self, name: str, half) -> None:
        self.left -= 1
        if self.left == 0:
            self.last = name
            if self.mode != "full":
                if self.mode == "torn" and name == "write":
                    half()
                os._exit(KILLED)


def operation(name: str, store: PictureStore, folder: Path) -> None:
    if name == "save":
        request = GenerationRequest(prompt='a "late", 猫: apple', seed=5, count=4)
        image = Image.linear_gradient("L").convert("RGB").resize((128, 96))
        store.save(image, request, job_id="second", index=2, seconds=1.5)
    elif name == "source":
        SourceStore(folder).add(Image.linear_gradient("L").convert("RGB"))
    elif name == "draft":
        stream = io.BytesIO()
        Image.new("L", (64, 64), 200).save(stream, "PNG")
        DraftStore(folder).save("mask", stream.getvalue())
    else:
        store.purge(older_than=0)


def one_round(name: str, mode: str, folder: Path, fail_at: int) -> None:
    """Never returns: ends the forked process, 0 when the operation passed."""
    database = open_database(Settings(data_dir=folder))
    store = PictureStore(database, folder)
    layer = FaultLayer(fail_at, mode)
    event.listen(database.engine, "commit", lambda _connection: layer.met("commit", None))
    said = ""
    try:
        operation(name, store, folder)
    except EaselError as error:
        said = f"{type(error).__name__}: {error}"
    layer.left = 10**9
    ended = {"n": fail_at, "call": layer.last, "said": said}
    (folder / "ended.json").write_text(json.dumps(ended), encoding="utf-8")
    os._exit(0)


def main(name: str, mode: str, template: Path, folder: Path) -> None:
    for fail_at in range(1, 200):
        shutil.copytree(template, folder / str(fail_at))
        child = os.fork()
        if child == 0:
            one_round(name, mode, folder / str(fail_at), fail_at)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        report = folder / str(fail_at) / "ended.json"
        ended = json.loads(report.read_text(encoding="utf-8")) if code == 0 else {"n": fail_at}
        report.unlink(missing_ok=True)
        sys.stdout.write(json.dumps(ended | {"code": code}) + "\n")
        if code == 0 and not ended["call"]:
            return
    raise SystemExit("the operation never passed")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
