"""How fast the engine draws with the starter model, as ratios that hold on a busy machine.

    python tests/benchmarks/engine.py [model folder]

CPU time on one thread, the two sides in turn; only the seconds of a picture are wall clock on two
threads, and tell little while the machine is busy.
"""

from __future__ import annotations

import json
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from diffusers import StableDiffusionPipeline

from studio.core.request import GenerationRequest
from studio.core.settings import STARTER_MODEL
from studio.diffusion.device import choose_dtype
from studio.diffusion.latents import picture_generators
from studio.diffusion.model import LatentDiffusionModel, load_model
from studio.diffusion.sampler import sample
from tests.benchmarks.measure import compare
from tests.benchmarks.plain_pipeline import plain_pipeline

STEPS = 10  # of the ratios; cost is exactly linear in steps
PICTURE_STEPS = 20
BATCH = 8
WALL_RUNS = 3


@dataclass(frozen=True)
class Bench:
    """The model in fp32 and the request that the ratios are taken on."""

    folder: Path
    model: LatentDiffusionModel
    request: GenerationRequest

    def draw(self, model: LatentDiffusionModel | None = None, **options) -> None:
        """Draw the request once, with `options` of the sampler or changes of the request."""
        changes = {k: options.pop(k) for k in ("count", "steps") if k in options}
        options.setdefault("preview_every", math.inf)
        for _ in sample(model or self.model, self.request.with_changes(**changes), **options):
            pass


def main(folder: Path = STARTER_MODEL) -> list[dict]:
    """Return the engine's figures: {metric, value, unit, ratio_to, ci, n} each."""
    torch.set_num_threads(1)
    model = load_model(folder, "bench", device="cpu", dtype=torch.float32)
    width, height = model.native_size
    bench = Bench(
        folder,
        model,
        GenerationRequest(
            prompt="red apple, flat illustration", width=width, height=height, steps=STEPS, seed=1
        ),
    )
    return [engine(bench), previews(bench), batching(bench), dtype(bench), *seconds(bench)]


def engine(bench: Bench) -> dict:
    """The engine against diffusers' pipeline on the same networks, steps and seed."""
    pipeline = plain_pipeline(bench.folder, bench.model, StableDiffusionPipeline)
    request = bench.request

    def plain() -> None:
        pipeline(
            request.prompt,
            negative_prompt=request.negative_prompt,
            num_inference_steps=request.steps,
            guidance_scale=request.guidance_scale,
            width=request.width,
            height=request.height,
            generator=picture_generators([request.seed]),
        )

    return ratio(
        "CPU seconds for a picture", "plain diffusers pipeline", compare(bench.draw, plain)
    )


def previews(bench: Bench) -> dict:
    """Previews as the page asks for them against none."""
    found = compare(lambda: bench.draw(preview_every=0.4), bench.draw)
    return ratio("CPU seconds for a picture with previews", "without previews", found)


def batching(bench: Bench) -> dict:
    """A picture of a batch of eight against a picture drawn alone."""
    found = compare(
        lambda: bench.draw(count=BATCH, batch_size=BATCH, steps=4),
        lambda: bench.draw(count=BATCH, batch_size=1, steps=4),
    )
    return ratio(f"CPU seconds for {BATCH} pictures in one batch", "one by one", found)


def dtype(bench: Bench) -> dict:
    """The number format that Easel chooses here against fp32, four pictures at once."""
    chosen = choose_dtype(torch.device("cpu"))
    fast = load_model(bench.folder, "bench", device="cpu", dtype=chosen, sha256=bench.model.sha256)
    found = compare(
        lambda: bench.draw(fast, count=4, steps=4), lambda: bench.draw(count=4, steps=4)
    )
    return ratio(
        f"CPU seconds for 4 pictures in {str(chosen).removeprefix('torch.')}", "float32", found
    )


def seconds(bench: Bench) -> list[dict]:
    """One picture at native size on two threads, wall clock, as an artist waits for it."""
    torch.set_num_threads(2)
    model = load_model(bench.folder, "bench", device="cpu", sha256=bench.model.sha256)
    bench.draw(model, steps=2)
    whole, first = [], []
    for _ in range(WALL_RUNS):
        begin = time.perf_counter()
        names = []
        request = bench.request.with_changes(steps=PICTURE_STEPS)
        for event in sample(model, request):
            names.append(type(event).__name__)
            if names.count("Preview") == 1 and names[-1] == "Preview":
                first.append(time.perf_counter() - begin)
        whole.append(time.perf_counter() - begin)
    size = f"{bench.request.width} x {bench.request.height}"
    return [
        {
            "metric": f"seconds for a picture, {size}, {PICTURE_STEPS} steps, 2 threads",
            "value": round(min(whole), 3),
            "unit": "s",
            "n": WALL_RUNS,
        },
        {
            "metric": "seconds to the first preview, 2 threads",
            "value": round(min(first), 3),
            "unit": "s",
            "n": WALL_RUNS,
        },
    ]


def ratio(metric: str, ratio_to: str, found: dict) -> dict:
    """Return the record of one comparison: our CPU seconds, and their ratio to the other's."""
    return {"metric": metric, "ratio_to": ratio_to, **found}


if __name__ == "__main__":
    print(json.dumps(main(*map(Path, sys.argv[1:])), indent=1))
