"""Refuses a SQLite file on a network drive, where its write-ahead log loses votes and pictures.

Writers and readers of the log share memory through a file beside the database, which machines on a
network do not (https://www.sqlite.org/wal.html, "Disadvantages").
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import psutil

from studio.core.errors import StorageError

KINDS = frozenset(
    (
        "nfs", "nfs3", "nfs4", "cifs", "smb", "smb2", "smb3", "smbfs", "afs", "afpfs", "ncpfs",
        "coda", "ceph", "lustre", "glusterfs", "beegfs", "gpfs", "webdav", "davfs", "fuse.sshfs",
        "fuse.davfs2", "fuse.rclone", "fuse.glusterfs", "fuse.ceph", "fuse.s3fs", "fuse.gcsfuse",
        "fuse.smbnetfs", "fuse.juicefs",
    )
)  # fmt: skip


class Mount(Protocol):
    """What `psutil.disk_partitions` tells of a mounted file system."""

    mountpoint: str
    fstype: str
    opts: str


def network_kind(folder: Path, mounts: Iterable[Mount]) -> str:
    """Return the kind of network drive that `folder` lies on ('nfs4', ...), '' for a local disk.

    Of several mounts on one place the last one is on top.
    """
    place = folder.absolute()
    if str(place).startswith("\\\\"):  # Windows: \\server\share
        return "a network share"
    found: Mount | None = None
    for mount in mounts:
        point = Path(mount.mountpoint)
        deeper = found is None or len(point.parts) >= len(Path(found.mountpoint).parts)
        if deeper and place.is_relative_to(point):
            found = mount
    if found is None:
        return ""
    if "remote" in found.opts.split(","):  # Windows
        return "a network drive"
    return found.fstype if found.fstype.lower() in KINDS else ""


def find_network_kind(folder: Path) -> str:
    """Return `network_kind` of a folder on this machine; '' when that cannot be found out."""
    try:
        return network_kind(folder.resolve(), psutil.disk_partitions(all=True))
    except OSError:
        return ""


def refuse_network_folder(folder: Path) -> None:
    """Raise `StorageError` when a SQLite file in `folder` would lie on a network drive."""
    kind = find_network_kind(folder)
    if kind:
        raise StorageError(
            f"{folder} lies on a network drive ({kind}), where the database could be damaged. "
            "Choose a folder on a disk of this machine with --data-dir, or name a PostgreSQL "
            "server with --database."
        )
