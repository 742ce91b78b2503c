"""Which device draws, in which number format, and how much memory it has left."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import psutil
import torch

from studio.core.errors import EaselError, ModelError

_Result = TypeVar("_Result")
_CGROUPS = (  # folder, limit and usage of a container's memory, versions 2 and 1
    (Path("/sys/fs/cgroup"), "memory.max", "memory.current"),
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes"),
)
_OUT_OF_MEMORY_WORDS = ("out of memory", "can't allocate memory", "not enough memory")


def choose_device(wanted: str = "") -> torch.device:
    """Return the wanted device, or the best one present: CUDA, then Apple's MPS, then the CPU.

    Raises ModelError when the wanted device is not there.
    """
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not wanted:
        return torch.device(next((name for name, there in present.items() if there), "cpu"))
    try:
        device = torch.device(wanted)
    except RuntimeError as error:
        raise ModelError(f"There is no device '{wanted[:40]}'; use cpu, cuda or mps.") from error
    if device.type != "cpu" and not present.get(device.type, False):
        raise ModelError(
            f"The device '{wanted[:40]}' is not available here; leave the choice to Easel or use "
            "cpu. `python launch.py doctor` says what is present."
        )
    return device


def choose_dtype(device: torch.device, training: bool = False) -> torch.dtype:
    """Return the number format for the U-Net on `device`.

    Never fp16 on a CPU: it is hundreds of times slower there. On CPUs with bf16 arithmetic
    inference is 1.2 to 1.7 times faster in bf16; training stays in fp32 unless it is asked for
    (`training/hardware.py`).
    """
    if training:
        return torch.float32
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if device.type == "cpu" and _cpu_has_bfloat16():
        return torch.bfloat16
    return torch.float32


def _cpu_has_bfloat16() -> bool:
    read = getattr(torch.cpu, "get_capabilities", None)
    if read is None:
        return False
    capabilities = read()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def free_bytes(device: torch.device) -> int:
    """Return how many bytes can still be allocated on `device`, container limits respected."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free + cached
    free = psutil.virtual_memory().available
    for folder, limit_name, usage_name in _CGROUPS:
        try:
            limit = (folder / limit_name).read_text("ascii").strip()
            usage = int((folder / usage_name).read_text("ascii"))
            statistics = (folder / "memory.stat").read_text("ascii").split()
        except (OSError, ValueError):
            continue
        if limit.isdigit():  # "max" means none
            values = dict(zip(statistics[::2], statistics[1::2], strict=False))
            file_cache = int(values.get("inactive_file", 0))  # given back when memory gets tight
            free = min(free, max(0, int(limit) - usage + file_cache))
    return free


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch or Python means that memory ran out, on any device."""
    if isinstance(error, EaselError):
        return False
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(w in text for w in _OUT_OF_MEMORY_WORDS)


def release_memory(device: torch.device) -> None:
    """Give back what is no longer used. Call it after the except block, not inside it."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def attempt(call: Callable[[], _Result]) -> _Result | None:
    """Return the call's result, or None when memory ran out.

    The traceback's frames hold tensors, so callers free memory only after this has returned.
    """
    try:
        return call()
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
    return None
