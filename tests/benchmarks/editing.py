"""What edits cost with the starter model, and what an outpainting looks like where it begins.

    python tests/benchmarks/editing.py [model folder]

* floating-point operations, counted: image to image against strength x steps, a mask's crop of a
  large source against that crop alone;
* CPU time against diffusers' own pipelines on the same networks, in turn on one thread;
* the peak of memory against text to image of the same size, each in a process of its own;
* the step across an outpainting's seam against the steps beside it, how much of the new part is
  something else than what stands at the edges, and what its resampling costs.
"""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from studio.core.geometry import extension_to_aspect
from studio.core.request import GenerationRequest
from studio.core.settings import REPOSITORY, STARTER_MODEL
from studio.diffusion.edit import EditInputs
from studio.diffusion.latents import picture_generators
from studio.diffusion.model import LatentDiffusionModel, load_model
from studio.diffusion.sampler import Drawn, sample
from studio.ui.controls import EXTENSION
from tests.benchmarks.measure import compare
from tests.benchmarks.plain_pipeline import plain_pipeline

STEPS = 10
STRENGTH = 0.7
ROUNDS = 15  # of CPU time; each is short, and the two sides are close
LARGE = 2048  # side of the source of which only the mask's surroundings are drawn, pixels
MEMORY_SIDE = 512  # pixels; at the starter's own size the networks' weights hide the rest
SAMPLES = REPOSITORY / "assets" / "samples"
WIDE = (16, 9)
NAMED = "0" * 64  # a request names its pictures by hash; these are handed over instead
NEAR = 2  # pixels on each side of a seam that count as the seam itself
BESIDE = 12  # pixels further out on each side, to which it is compared
SMOOTH = 8  # pixels along a seam that an eye takes together
UNLIKE = 48  # levels of 255, in one channel: more than shading
MEGABYTE = 2**20
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Bench:
    """The model in fp32, a picture of its own size, and a request over it."""

    folder: Path
    model: LatentDiffusionModel
    source: Image.Image
    request: GenerationRequest

    def draw(self, request: GenerationRequest, *pictures: Image.Image) -> list[Image.Image]:
        """Draw a request from a source and a mask, without previews."""
        inputs = EditInputs(*pictures) if pictures else None
        events = sample(self.model, request, inputs=inputs, preview_every=math.inf)
        return [event.image for event in events if isinstance(event, Drawn)]


def main(folder: Path = STARTER_MODEL) -> list[dict]:
    """Return the figures: {metric, value, unit, ratio_to, ratio, ci, n} each."""
    torch.set_num_threads(1)
    bench = make_bench(folder)
    figures = (strength_flops, crop_flops, img2img_time, inpaint_time, peak_memory, seams)
    figures += (extension_flops,)
    return [record for figure in figures for record in figure(bench)]


def make_bench(folder: Path, side: int = 0) -> Bench:
    """Load the model; `side` in pixels replaces its own size."""
    model = load_model(folder, "bench", device="cpu", dtype=torch.float32)
    width, height = (side, side) if side else model.native_size
    source = _sample("castle.png").resize((width, height))
    request = GenerationRequest(
        prompt="castle, flat illustration", width=width, height=height, steps=STEPS, seed=1,
        source=NAMED, strength=STRENGTH,
    )  # fmt: skip
    return Bench(folder, model, source, request)


# ---------------------------------------------------------------- operations


def strength_flops(bench: Bench) -> Iterator[dict]:
    """Image to image against strength x steps of the U-Net, one encoding and one decoding."""
    text = bench.request.with_changes(source="", strength=1.0)
    drawn = _operations(bench, lambda: bench.draw(text))
    edited = _operations(bench, lambda: bench.draw(bench.request, bench.source))
    untouched = _operations(bench, lambda: _encode_only(bench))
    share = int(STEPS * STRENGTH) / STEPS
    yield _share(
        f"U-Net operations of image to image, strength {STRENGTH}",
        edited["unet"], f"{share} of text to image", share * drawn["unet"],
    )  # fmt: skip
    whole = share * drawn["unet"] + drawn["all"] - drawn["unet"] + untouched["all"]
    yield _share(
        f"all operations of image to image, strength {STRENGTH}",
        edited["all"], f"{share} of the U-Net's, and one encoding", whole,
    )  # fmt: skip


def crop_flops(bench: Bench) -> Iterator[dict]:
    """Only masked on a large source against an inpainting of the same crop alone."""
    width, height = bench.request.width, bench.request.height
    large = bench.source.resize((LARGE, LARGE))
    mask = _painted((LARGE, LARGE), (900, 900, 900 + width // 2, 900 + height // 2))
    part = bench.request.with_changes(mask=NAMED, inpaint_area="only masked")
    small = _painted((width, height), (width // 4, height // 4, width // 2, height // 2))
    alone = bench.request.with_changes(mask=NAMED)
    ours = _operations(bench, lambda: bench.draw(part, large, mask))
    theirs = _operations(bench, lambda: bench.draw(alone, bench.source, small))
    yield _share(
        f"operations of only masked on {LARGE} x {LARGE} px", ours["all"],
        f"its crop of {width} x {height} px alone", theirs["all"],
    )  # fmt: skip


def _operations(bench: Bench, action: Callable[[], object]) -> dict[str, int]:
    """Return the floating-point operations of an action, and those of the U-Net among them."""
    counter = FlopCounterMode(display=False)
    seen = {"unet": 0}
    before: list[int] = []
    hooks = (
        bench.model.unet.register_forward_pre_hook(
            lambda *_: before.append(counter.get_total_flops())
        ),
        bench.model.unet.register_forward_hook(
            lambda *_: seen.update(unet=seen["unet"] + counter.get_total_flops() - before.pop())
        ),
    )
    try:
        with counter:
            action()
    finally:
        for hook in hooks:
            hook.remove()
    return {"all": counter.get_total_flops(), **seen}


@torch.inference_mode()
def _encode_only(bench: Bench) -> None:
    width, height = bench.source.size
    bench.model.vae.encode(torch.zeros(1, 3, height, width))


# ---------------------------------------------------------------- time


def img2img_time(bench: Bench) -> Iterator[dict]:
    """Image to image against diffusers' pipeline on the same networks, steps and strength."""
    pipeline = plain_pipeline(bench.folder, bench.model, StableDiffusionImg2ImgPipeline)
    found = compare(
        lambda: bench.draw(bench.request, bench.source),
        lambda: _piped(bench, pipeline, image=bench.source),
        rounds=ROUNDS,
    )
    yield {"metric": "CPU s of image to image", "ratio_to": "diffusers' pipeline", **found}


def inpaint_time(bench: Bench) -> Iterator[dict]:
    """Inpainting against diffusers' pipeline; ours lays the result over the source as well."""
    width, height = bench.source.size
    mask = _painted((width, height), (width // 4, height // 4, width // 2, height // 2))
    pipeline = plain_pipeline(bench.folder, bench.model, StableDiffusionInpaintPipeline)
    request = bench.request.with_changes(mask=NAMED)
    found = compare(
        lambda: bench.draw(request, bench.source, mask),
        lambda: _piped(
            bench, pipeline, image=bench.source, mask_image=mask, width=width, height=height
        ),
        rounds=ROUNDS,
    )
    yield {"metric": "CPU s of inpainting", "ratio_to": "diffusers' pipeline", **found}


def _piped(bench: Bench, pipeline: Callable, **pictures: object) -> None:
    request = bench.request
    pipeline(
        request.prompt,
        negative_prompt=request.negative_prompt,
        num_inference_steps=request.steps,
        guidance_scale=request.guidance_scale,
        strength=request.strength,
        generator=picture_generators([request.seed]),
        **pictures,
    )


# ---------------------------------------------------------------- memory


def peak_memory(bench: Bench) -> Iterator[dict]:
    """The peak of each way to draw, above what the loaded model takes; Linux only."""
    if not Path("/proc/self/clear_refs").exists():
        return
    peaks = {name: _peak_of(bench.folder, name) for name in ("txt2img", "img2img", "inpaint")}
    for name in ("img2img", "inpaint"):
        yield {
            "metric": f"peak memory of {name}, {MEMORY_SIDE} x {MEMORY_SIDE} px, without weights",
            "value": peaks[name],
            "unit": "MB",
            "ratio_to": "text to image",
            "ratio": peaks[name] / peaks["txt2img"],
            "n": 1,
        }


def _peak_of(folder: Path, name: str) -> float:
    program = f"from tests.benchmarks.editing import peak; peak({str(folder)!r}, {name!r})"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return float(done.stdout.split()[-1])


def peak(folder: str, name: str) -> None:
    """Print by how many megabytes this process grows at most while it draws."""
    torch.set_num_threads(1)
    bench = make_bench(Path(folder), MEMORY_SIDE)
    side = MEMORY_SIDE
    mask = _painted((side, side), (side // 4, side // 4, side // 2, side // 2))
    ways = {
        "txt2img": (bench.request.with_changes(source="", strength=1.0),),
        "img2img": (bench.request, bench.source),
        "inpaint": (bench.request.with_changes(mask=NAMED), bench.source, mask),
    }
    request, *pictures = ways[name]
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forgets the peak so far
    bench.draw(request.with_changes(steps=2, strength=1.0), *pictures)
    print((_resident("VmHWM") - before) / MEGABYTE)


def _resident(name: str) -> int:
    """Return a figure of /proc/self/status in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name + ":"))


# ---------------------------------------------------------------- seams


def seams(bench: Bench) -> Iterator[dict]:
    """A 16:9 outpainting as the studio draws it: its seam, and second subjects in the new part."""
    across, beside, strange = [], [], []
    for number, shown in enumerate(json.loads((SAMPLES / "samples.json").read_text())):
        source = _sample(shown["file"]).resize(bench.model.native_size)
        extend = extension_to_aspect(source.size, WIDE)
        request = _extension(bench, extend, steps=20, seed=number)
        (drawn,) = bench.draw(request, source)
        strange.append(_strange(drawn, source, extend))
        for column in (extend[0], drawn.width - extend[2]):
            at_seam, around = _steps(np.asarray(drawn, dtype=np.float32), column)
            across.append(at_seam)
            beside.append(around)
    yield {
        "metric": "largest step at an outpainting's seam",
        "value": statistics.median(across),
        "unit": "levels of 255",
        "ratio_to": "the steps beside it",
        "ratio": statistics.median(across) / statistics.median(beside),
        "n": len(across),
    }
    yield {
        "metric": "share of an outpainting's new part unlike the edge it continues, the worst",
        "value": max(strange),
        "unit": "share",
        "median": statistics.median(strange),
        "n": len(strange),
    }


def extension_flops(bench: Bench) -> Iterator[dict]:
    """What the resampling of an extension costs, against a picture from text of that size."""
    extend = (0, 0, bench.source.width, 0)
    size = {"width": 2 * bench.source.width, "height": bench.source.height}
    text = bench.request.with_changes(source="", strength=1.0, **size)
    drawn = _operations(bench, lambda: bench.draw(text))
    request = _extension(bench, extend)
    extended = _operations(bench, lambda: bench.draw(request, bench.source))
    yield _share(
        "U-Net operations of an extension by its defaults", extended["unet"],
        "text to image of that size, guided", drawn["unet"],
    )  # fmt: skip


def _extension(bench: Bench, extend: tuple[int, int, int, int], **changes) -> GenerationRequest:
    """Return the request that the page makes when nothing is said of what lies around."""
    by_default = {**EXTENSION, "prompt": "", "guidance_scale": 1.0, "extend": extend}
    return bench.request.with_changes(**by_default, **changes)


def _strange(drawn: Image.Image, source: Image.Image, extend: tuple[int, int, int, int]) -> float:
    """Return the share of new pixels that differ from the source's nearest edge, by UNLIKE."""
    left, top, right, bottom = extend
    edges = np.pad(np.asarray(source, int), ((top, bottom), (left, right), (0, 0)), mode="edge")
    new = np.ones(edges.shape[:2], bool)
    new[top : top + source.height, left : left + source.width] = False
    return float((np.abs(np.asarray(drawn, int) - edges).max(axis=2) > UNLIKE)[new].mean())


def _steps(pixels: np.ndarray, column: int) -> tuple[float, float]:
    """Return the largest step between columns near a seam, and the median of those beside it.

    In levels of 255. `pixels` (H, W, 3) are averaged over SMOOTH rows first, since the grain of a
    picture hides steps from the eye.
    """
    rows = pixels.shape[0] // SMOOTH
    averaged = pixels[: rows * SMOOTH].reshape(rows, SMOOTH, *pixels.shape[1:]).mean(axis=1)
    steps = np.abs(np.diff(averaged, axis=1)).mean(axis=(0, 2))
    near = steps[column - 1 - NEAR : column + NEAR]
    left = steps[column - 1 - NEAR - BESIDE : column - 1 - NEAR]
    right = steps[column + NEAR : column + NEAR + BESIDE]
    return float(near.max()), float(np.median(np.concatenate([left, right])))


# ---------------------------------------------------------------- small parts


def _share(metric: str, ours: float, ratio_to: str, theirs: float) -> dict:
    record = {"metric": metric, "value": ours / 1e9, "unit": "GFLOP", "ratio_to": ratio_to}
    return record | {"ratio": ours / theirs, "n": 1}


def _sample(name: str) -> Image.Image:
    return Image.open(SAMPLES / name).convert("RGB")


def _painted(size: tuple[int, int], box: tuple[int, int, int, int]) -> Image.Image:
    mask = Image.new("L", size)
    mask.paste(255, box)
    return mask


if __name__ == "__main__":
    print(json.dumps(main(*map(Path, sys.argv[1:])), indent=1))
