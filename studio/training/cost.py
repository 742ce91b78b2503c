"""What training a U-Net costs: counted work, and how fast it is done.

Work is counted on the meta device, where attention is counted in full (on CPU tensors torch's
counter leaves it out), and a step is three forward passes: one forward, two backward. `COST.md`
holds these figures against measured and published runs.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch
from torch.utils.flop_counter import FlopCounterMode

from studio.core.events import Event, StageProgress
from studio.training.hardware import Hardware
from studio.training.stages.pretrain import UnetConfig, build_unet

PASSES = 3  # of a training step, in forward passes
PROBE_SIDE = 8192


def forward_flops(config: UnetConfig) -> float:
    """Return the floating-point operations of one sample's forward pass, over all frames."""
    with torch.device("meta"):
        unet = build_unet(config)
        total = 0.0
        for frame in config.frames:
            latents = torch.empty(1, 4, frame.height // 8, frame.width // 8)
            features = torch.empty(1, 77, config.text_width)
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                unet(latents, torch.zeros(1), features)
            total += frame.share * counter.get_total_flops()
    return total


def with_speed(events: Iterable[Event], config: UnetConfig, hardware: Hardware) -> Iterator[Event]:
    """Pass events on; progress also tells samples and teraFLOPs a second since the last one.

    On CUDA the latter is also told as a share of what the device reaches in matrix products, for
    all processes together: the model FLOP utilisation.
    """
    work = PASSES * forward_flops(config)
    reached = matmul_rate(hardware.device) * hardware.team.count
    last: tuple[float, int] | None = None  # when, after which step
    for event in events:
        if not isinstance(event, StageProgress) or not event.steps:
            yield event
            continue
        now = time.monotonic()
        speed = {}
        if last is not None and now > last[0]:
            samples = (event.step - last[1]) * config.batch_size / (now - last[0])
            speed = {"samples_per_second": samples, "tflops": samples * work / 1e12}
            speed |= {"mfu": samples * work / reached} if reached else {}
        last = now, event.step
        yield replace(event, metrics={**event.metrics, **speed})


def matmul_rate(device: torch.device) -> float:
    """Return the bf16 FLOPs a second that large matrix products reach on CUDA; 0 elsewhere."""
    if device.type != "cuda":
        return 0.0
    chance = torch.Generator(device).manual_seed(0)
    a = torch.randn(PROBE_SIDE, PROBE_SIDE, device=device, generator=chance).bfloat16()
    for _ in range(3):
        a @ a
    torch.cuda.synchronize(device)
    begun = time.perf_counter()
    for _ in range(20):
        a @ a
    torch.cuda.synchronize(device)
    return 20 * 2 * PROBE_SIDE**3 / (time.perf_counter() - begun)
