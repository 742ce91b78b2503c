"""Fill a small disk with pictures and tell as JSON what became of them.

    unshare --mount python full_disk.py mounted FOLDER     (root, or `unshare -Urm`)
    python full_disk.py injected FOLDER

'mounted': FOLDER becomes a file system of its own with 2 MB, seen by this process alone and gone
with it. 'injected': without the right to mount, writes fail with ENOSPC once 2 MB are written.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

from PIL import Image

from studio.core.errors import DiskFullError, StorageError
from studio.core.request import GenerationRequest
from studio.core.settings import Settings
from studio.store.backup import back_up
from studio.store.check import find_database_fault
from studio.store.database import open_database
from studio.store.files import open_picture
from studio.store.pictures import PictureStore

ROOM = 3_500_000  # bytes
REQUEST = GenerationRequest(prompt="a long day", seed=1)


def inject() -> None:
    """Let `os.write` find the disk full after ROOM bytes, until `os.write_freely` is called."""
    write, left = os.write, [ROOM]

    def limited(descriptor: int, content: bytes) -> int:
        if left[0] <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        left[0] -= len(content)
        return write(descriptor, content)

    os.write = limited
    os.write_freely = lambda: setattr(os, "write", write)


def save(store: PictureStore, index: int) -> None:
    noise = Image.effect_noise((REQUEST.width, REQUEST.height), 90).convert("RGB")
    store.save(noise, REQUEST, job_id="full", index=index, seconds=1.0)


def main(mode: str, folder: Path) -> None:
    if mode == "mounted":
        size = f"size={ROOM}"
        subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", folder], check=True)
    ballast = folder / "ballast"
    ballast.write_bytes(bytes(1_200_000))
    if mode == "injected":
        inject()
    settings = Settings(data_dir=folder)
    database = open_database(settings)
    store = PictureStore(database, folder)
    saved, said = 0, []
    while saved < 500 and len(said) < 3:  # it goes on trying, as an artist would
        try:
            save(store, saved)
            saved += 1
        except StorageError as error:
            said.append([type(error) is DiskFullError, str(error)])
    backup = ""
    if mode == "mounted":
        try:
            back_up(database.engine, settings.backups_dir, "daily")
        except StorageError as error:
            backup = str(error)
    left_over = [path.name for path in folder.rglob("*.tmp-*")]
    listed = store.page(limit=1000)
    ballast.unlink()
    if mode == "injected":
        os.write_freely()
    save(store, saved)
    found = store.page(limit=1000)
    for picture in found:
        open_picture(store.file(picture))
    database.close()
    reopened = open_database(settings)
    adopted = PictureStore(reopened, folder).reconcile().adopted
    reopened.close()
    fault = find_database_fault(settings.database_path)
    told = {
        "saved": saved, "said": said, "left_over": left_over, "listed": len(listed),
        "after": len(found), "adopted": adopted, "fault": fault, "backup": backup,
    }  # fmt: skip
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
