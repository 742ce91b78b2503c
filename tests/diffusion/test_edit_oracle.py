"""Edits against diffusers' own pipelines: the same latents on the same networks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
)
from PIL import Image

from studio.core.request import SAMPLERS, GenerationRequest
from studio.diffusion.edit import EditInputs
from studio.diffusion.latents import encode, from_uint8, picture_generators
from studio.diffusion.model import LatentDiffusionModel, load_model
from studio.diffusion.sampler import Drawn, sample
from studio.diffusion.samplers import make_scheduler
from tests.diffusion.tiny_model import build_tiny_model

REQUEST = GenerationRequest(
    prompt="red apple",
    negative_prompt="blue",
    width=64,
    height=72,
    steps=5,
    strength=0.7,
    seed=5,
    count=2,
    source="a" * 64,
    mask_blur=0,
)


def picture(seed: int = 0) -> Image.Image:
    chance = np.random.default_rng(seed)
    return Image.fromarray(chance.integers(0, 256, (72, 64, 3), np.uint8))


def mask() -> Image.Image:
    """A mask along the borders of latents, where all ways of shrinking it agree."""
    painted = np.zeros((72, 64), np.uint8)
    painted[16:48, 8:40] = 255
    return Image.fromarray(painted)


@pytest.fixture(scope="module")
def inpainting_folder(tmp_path_factory):
    return build_tiny_model(tmp_path_factory.mktemp("models") / "nine", in_channels=9)


class DecodedLatents:
    """What a model's decoder is given, drawn by whomever."""

    def __init__(self, model: LatentDiffusionModel) -> None:
        self._model = model
        self._seen: list[torch.Tensor] = []
        self._handle = model.vae.post_quant_conv.register_forward_pre_hook(
            lambda _, inputs: self._seen.append(inputs[0].clone())
        )

    def of(self, drawing: Iterator[object]) -> torch.Tensor:
        """Return the latents (B, C, h, w) that were decoded while `drawing` ran."""
        self._seen.clear()
        for _ in drawing:
            pass
        return torch.cat(self._seen)


def ours(model, request: GenerationRequest, painted: Image.Image | None = None):
    return sample(model, request, inputs=EditInputs(picture(), painted))


def theirs(kind, folder, model, request: GenerationRequest, **inputs) -> Iterator[object]:
    """Run diffusers' pipeline over the model's networks with what `request` says."""
    scheduler = DDIMScheduler.from_pretrained(folder, subfolder="scheduler")
    if request.sampler != "DDIM":
        scheduler = make_scheduler(request.sampler, model.scheduler_config, request.steps)
    pipeline = kind.from_pretrained(
        folder,
        unet=model.unet,
        vae=model.vae,
        text_encoder=model.text_encoder,
        scheduler=scheduler,
        safety_checker=None,
    )
    pipeline.set_progress_bar_config(disable=True)
    yield pipeline(
        [request.prompt] * request.count,
        negative_prompt=[request.negative_prompt] * request.count,
        num_inference_steps=request.steps,
        guidance_scale=request.guidance_scale,
        strength=request.strength,
        eta=request.eta,
        generator=picture_generators([request.seed + i for i in range(request.count)]),
        **inputs,
    ).images


def source_latents(model, count: int) -> torch.Tensor:
    """The latents of the source as Easel encodes it: diffusers draws them, with more noise."""
    with torch.no_grad():
        latents = encode(model.vae, from_uint8(np.asarray(picture())[None]))
    return latents.repeat(count, 1, 1, 1)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(
    "changes", [{}, {"guidance_scale": 1.0, "strength": 0.41}, {"eta": 0.6, "strength": 0.99}]
)
def test_image_to_image_equals_the_pipeline(folder, tiny, sampler, changes):
    request = REQUEST.with_changes(sampler=sampler, **changes)
    latents = DecodedLatents(tiny)
    expected = latents.of(
        theirs(
            StableDiffusionImg2ImgPipeline,
            folder,
            tiny,
            request,
            image=source_latents(tiny, request.count),
        )
    )
    assert torch.equal(latents.of(ours(tiny, request)), expected)


def test_image_to_image_pictures_equal_the_pipelines(folder, tiny):
    drawn = [np.asarray(e.image) for e in ours(tiny, REQUEST) if isinstance(e, Drawn)]
    kind, image = StableDiffusionImg2ImgPipeline, source_latents(tiny, REQUEST.count)
    (images,) = theirs(kind, folder, tiny, REQUEST, image=image)
    assert np.array_equal(drawn, [np.asarray(image) for image in images])


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("changes", [{}, {"guidance_scale": 1.0, "strength": 0.41}, {"eta": 0.6}])
def test_inpainting_with_an_ordinary_checkpoint_equals_the_pipeline(folder, tiny, sampler, changes):
    request = REQUEST.with_changes(sampler=sampler, mask="b" * 64, **changes)
    latents = DecodedLatents(tiny)
    image = source_latents(tiny, request.count)
    expected = latents.of(
        theirs(
            StableDiffusionInpaintPipeline,
            folder,
            tiny,
            request,
            image=image,
            mask_image=mask(),
            masked_image_latents=torch.zeros_like(image),
            width=request.width,
            height=request.height,
        )
    )
    assert torch.equal(latents.of(ours(tiny, request, mask())), expected)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("strength", [0.7, 0.41])
def test_inpainting_with_an_inpainting_checkpoint_equals_the_pipeline(
    inpainting_folder, sampler, strength
):
    model = load_model(inpainting_folder, "nine", device="cpu", dtype=torch.float32)
    request = REQUEST.with_changes(sampler=sampler, strength=strength, mask="b" * 64)
    latents = DecodedLatents(model)
    hidden = from_uint8(np.asarray(picture())[None]) * (np.asarray(mask()) == 0)
    with torch.no_grad():
        around = encode(model.vae, hidden.float())
    expected = latents.of(
        theirs(
            StableDiffusionInpaintPipeline,
            inpainting_folder,
            model,
            request,
            image=source_latents(model, request.count),
            mask_image=mask(),
            masked_image_latents=around.repeat(request.count, 1, 1, 1),
            width=request.width,
            height=request.height,
        )
    )
    assert torch.equal(latents.of(ours(model, request, mask())), expected)


def test_an_inpainting_checkpoint_draws_from_text_and_from_a_whole_picture(inpainting_folder):
    model = load_model(inpainting_folder, "nine", device="cpu", dtype=torch.float32)
    for request in (REQUEST, REQUEST.with_changes(source="", count=1, hires_scale=1.5)):
        drawn = [e.image for e in ours(model, request) if isinstance(e, Drawn)]
        assert len(drawn) == request.count
