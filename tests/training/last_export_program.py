"""Let the disk be full when an adapter is written at last; tell as JSON what became of it.

    unshare --mount python last_export_program.py mounted FOLDER MODEL     (or `unshare -Urm`)
    python last_export_program.py hindered FOLDER MODEL

'mounted': FOLDER becomes a file system of its own that is filled until one of the two files has
room. 'hindered', without the right to mount: the second file's place is taken by a folder.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from PIL import Image

from studio.core.errors import DiskFullError
from studio.core.events import EpochDone, Event, StageArtifact
from studio.core.settings import Settings
from studio.diffusion.model import load_model
from studio.services.adapter_shelf import AdapterShelf
from studio.training import lora
from studio.training.finetune import finetune
from studio.training.loop import LoopConfig
from studio.training.rewards import known_reward
from tests.training.finetune_program import CONFIG, TOOLS

LORA = lora.LoraConfig(
    "red", rank=4, look_steps=2, look_pictures=1, guidance_scale=1.0,
    loop=LoopConfig(steps=3, learning_rate=1e-2, warmup=1, checkpoint_every=2, report_every=1),
)  # fmt: skip
RUN = replace(CONFIG, epochs=1)
FILES = ("adapter.safetensors", "adapter.kohya.safetensors")
Start = Callable[[Path], Iterator[Event]]


def teach(model: Path, folder: Path) -> Iterator[Event]:
    examples = [lora.Example(f"{n}.png", Image.new("RGB", (64, 64), "red"), "a") for n in range(3)]
    return lora.train(load(model), examples, LORA, folder)


def tune(model: Path, folder: Path) -> Iterator[Event]:
    return finetune(load(model), known_reward("brightness"), RUN, TOOLS, folder)


def load(model: Path):
    return load_model(model, "tiny", "cpu", torch.float32, sha256="ab")


def is_last(event: Event) -> bool:
    """Whether only the adapter is still to be written."""
    last_look = isinstance(event, StageArtifact) and event.path.endswith("step-000003.png")
    return last_look or (isinstance(event, EpochDone) and event.epoch == 1)


def fill(folder: Path, mode: str, room: int) -> Path:
    """Leave `room` bytes, or take a place; returns what is in the way."""
    if mode == "hindered":
        blocked = folder / "adapter.kohya.tmp"
        blocked.mkdir()
        return blocked
    ballast = folder.parent / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    os.truncate(ballast, ballast.stat().st_size - room)
    return ballast


def watched(start: Start, folder: Path, mode: str) -> dict:
    whole = folder / "whole"
    for _ in start(whole):
        pass
    run = folder / "run"
    run.mkdir()
    for name in FILES:
        (run / name).write_bytes(b"older")
    room = (whole / FILES[0]).stat().st_size * 3 // 2  # for either, and not for both
    in_the_way, said = None, ""
    try:
        for event in start(run):
            if is_last(event):
                in_the_way = fill(run, mode, room)
    except DiskFullError as error:
        said = str(error)
    kept = [(run / name).read_bytes() == b"older" for name in FILES]
    if in_the_way is not None:
        in_the_way.rmdir() if mode == "hindered" else in_the_way.unlink()
    partials = [path.name for path in run.glob("*.tmp")]
    again = sum(1 for event in start(run) if isinstance(event, EpochDone))
    equal = [(run / name).read_bytes() == (whole / name).read_bytes() for name in FILES]
    return {"said": said, "kept": kept, "partials": partials, "equal": equal, "again": again}


def shelved(trained: Path, data: Path, mode: str) -> dict:
    """Put an adapter on the shelf, where only the first of its files finds room."""
    shelf, room = AdapterShelf(Settings(data_dir=data)), (trained / FILES[1]).stat().st_size + 4096
    write, left = os.write, [room]

    def limited(descriptor: int, content: bytes) -> int:
        left[0] -= len(content)
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, content)

    ballast = fill(data / "adapters", mode, room) if mode == "mounted" else None
    os.write = write if ballast else limited
    try:
        said = shelf.add_trained(trained, "red").name
    except DiskFullError as error:
        said = str(error)
    os.write = write
    half = [path.name for path in (data / "adapters").rglob("*")]
    if ballast:
        ballast.unlink()
    entry = shelf.add_trained(trained, "red")
    files = sorted(path.name for path in entry.path.parent.iterdir())
    return {"said": said, "half": half, "name": entry.name, "files": files}


def main(mode: str, folder: Path, model: Path) -> None:
    if mode == "mounted":
        command = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)]
        subprocess.run(command, check=True)
    torch.set_num_threads(1)
    told = {}
    for name, start in (("lora", teach), ("finetune", tune)):
        (folder / name).mkdir()
        told[name] = watched(partial(start, model), folder / name, mode)
    (folder / "data").mkdir()
    told["shelf"] = shelved(folder / "lora" / "whole", folder / "data", mode)
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
