"""The database is not put on a network drive."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from studio.core.settings import REPOSITORY
from studio.store.network_folder import find_network_kind, network_kind

Mount = namedtuple("Mount", "mountpoint fstype opts", defaults=("rw",))
LOCAL = (Mount("/", "ext4"), Mount("/proc", "proc"))


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "fuse.sshfs", "SMB3"])
def test_a_folder_below_a_network_mount_is_named(kind: str):
    mounts = [*LOCAL, Mount("/home/ada", kind)]
    assert network_kind(Path("/home/ada/easel/data"), mounts) == kind
    assert network_kind(Path("/home/ada"), mounts) == kind
    assert network_kind(Path("/home/adam/data"), mounts) == ""


def test_the_deepest_mount_counts_in_whatever_order_they_come():
    mounts = [Mount("/net/disk", "xfs"), Mount("/net", "nfs"), *LOCAL]
    assert network_kind(Path("/net/disk/data"), mounts) == ""
    assert network_kind(Path("/net/other"), mounts) == "nfs"


def test_of_two_mounts_on_one_place_the_last_is_on_top():
    mounts = [*LOCAL, Mount("/mnt", "ext4"), Mount("/mnt", "cifs")]
    assert network_kind(Path("/mnt/data"), mounts) == "cifs"
    assert network_kind(Path("/mnt/data"), mounts[:-1]) == ""


def test_a_disk_that_windows_calls_remote_is_named():
    assert network_kind(Path("/z/data"), [Mount("/z", "NTFS", "rw,remote")])


def test_this_machine_keeps_its_tests_on_a_local_disk(tmp_path: Path):
    assert find_network_kind(tmp_path) == ""


def test_a_studio_on_a_network_drive_is_refused_before_anything_is_written(tmp_path: Path):
    program = (
        "import psutil, sys, types\n"
        "real = psutil.disk_partitions(all=True)\n"
        f"share = types.SimpleNamespace(mountpoint={str(tmp_path)!r}, fstype='nfs4', opts='rw')\n"
        "psutil.disk_partitions = lambda all: [*real, share]\n"
        "import launch\n"
        f"sys.exit(launch.run_command(launch.parse(['generate', '--data-dir', {str(tmp_path)!r}])))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        env=os.environ,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "lies on a network drive (nfs4)" in done.stderr and "--database" in done.stderr
    assert not list(tmp_path.glob("easel.sqlite3*"))
