"""The drawing loop: equal to the pipeline, deterministic, counted, cancellable, frugal."""

from __future__ import annotations

import math
from io import BytesIO

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from PIL import Image

from studio.core.errors import InvalidRequestError, ModelError, NotEnoughMemoryError
from studio.core.events import Notice, Preview, Progress
from studio.core.request import SAMPLERS, AdapterUse, GenerationRequest
from studio.diffusion.denoise import SchedulerTransition, denoise
from studio.diffusion.latents import initial_latents, picture_generators
from studio.diffusion.memory import estimated_bytes, plan_memory
from studio.diffusion.model import load_model
from studio.diffusion.sampler import Drawn, sample
from studio.diffusion.samplers import make_scheduler
from studio.diffusion.text import encode_prompts

REQUEST = GenerationRequest(
    prompt="red apple", negative_prompt="blue", width=64, height=64, steps=4, seed=5, count=3
)


def pictures(events) -> list[np.ndarray]:
    return [np.asarray(e.image) for e in events if isinstance(e, Drawn)]


def latents_by_our_loop(model, request: GenerationRequest) -> torch.Tensor:
    generators = picture_generators([request.seed + i for i in range(request.count)])
    scheduler = make_scheduler(request.sampler, model.scheduler_config, request.steps)
    transition = SchedulerTransition(scheduler, generators, request.eta)
    noise = initial_latents(generators, model.latent_shape(request.width, request.height))
    prompts = [request.negative_prompt] * (request.guidance_scale > 1) + [request.prompt]
    features = encode_prompts(model, prompts).repeat_interleave(request.count, dim=0)
    latents = transition.begin(noise)
    *_, last = denoise(model.unet, latents, features, transition, request.guidance_scale)
    return last.latents


def latents_by_diffusers(pipeline, request: GenerationRequest, output_type: str = "latent"):
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(
        [request.prompt] * request.count,
        negative_prompt=[request.negative_prompt] * request.count,
        num_inference_steps=request.steps,
        guidance_scale=request.guidance_scale,
        eta=request.eta,
        width=request.width,
        height=request.height,
        generator=picture_generators([request.seed + i for i in range(request.count)]),
        output_type=output_type,
    ).images


def pipeline_of(folder, model) -> StableDiffusionPipeline:
    """Diffusers' own pipeline, tokenizer and scheduler, over the same networks."""
    return StableDiffusionPipeline.from_pretrained(
        folder,
        unet=model.unet,
        vae=model.vae,
        text_encoder=model.text_encoder,
        scheduler=DDIMScheduler.from_pretrained(folder, subfolder="scheduler"),
        safety_checker=None,
    )


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_loop_equals_the_pipeline_exactly(tiny_folder, guidance_scale, eta):
    model = load_model(tiny_folder, "tiny", device="cpu", dtype=torch.float32)
    request = REQUEST.with_changes(guidance_scale=guidance_scale, eta=eta)
    pipeline = pipeline_of(tiny_folder, model)
    assert torch.equal(latents_by_our_loop(model, request), latents_by_diffusers(pipeline, request))
    expected = [np.asarray(image) for image in latents_by_diffusers(pipeline, request, "pil")]
    assert np.array_equal(pictures(sample(model, request)), expected)


def test_loop_equals_the_pipeline_that_loads_the_folder_itself(tiny_folder):
    model = load_model(tiny_folder, "tiny", device="cpu", dtype=torch.float32)
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_folder, safety_checker=None)
    ours, theirs = latents_by_our_loop(model, REQUEST), latents_by_diffusers(pipeline, REQUEST)
    assert torch.allclose(ours, theirs, atol=1e-4)


def test_same_request_gives_the_same_bytes(tiny):
    for sampler in SAMPLERS:
        request = REQUEST.with_changes(sampler=sampler, eta=0.5)
        first, second = pictures(sample(tiny, request)), pictures(sample(tiny, request))
        assert np.array_equal(first, second)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_picture_does_not_depend_on_its_batch(tiny, sampler):
    request = REQUEST.with_changes(sampler=sampler, eta=0.5)
    together = pictures(sample(tiny, request, batch_size=3))
    alone = pictures(sample(tiny, request.with_changes(seed=request.seed + 2, count=1)))[0]
    error = np.square(together[2].astype(float) - alone).mean()
    assert error == 0 or 10 * math.log10(255**2 / error) >= 50
    assert not np.array_equal(together[0], together[2])


def test_batch_size_changes_neither_order_nor_seeds(tiny):
    drawn = [e for e in sample(tiny, REQUEST, batch_size=2) if isinstance(e, Drawn)]
    assert [(d.index, d.seed) for d in drawn] == [(0, 5), (1, 6), (2, 7)]
    assert all(d.seconds > 0 and d.image.mode == "RGB" for d in drawn)


@pytest.mark.parametrize("sampler", ["Euler", "DPM++ 2M", "UniPC"])
def test_samplers_agree_with_ddim_at_many_steps(tiny, sampler):
    request = REQUEST.with_changes(steps=100, count=1, guidance_scale=1.0)
    expected = latents_by_our_loop(tiny, request)
    got = latents_by_our_loop(tiny, request.with_changes(sampler=sampler))
    relative = float((got - expected).norm() / expected.norm())
    assert relative < 0.05


@pytest.mark.parametrize(
    ("guidance_scale", "negative", "text_calls", "rows"),
    [(3.0, "blue", 2, [4, 4, 2]), (3.0, "red apple", 1, [4, 4, 2]), (1.0, "blue", 1, [2, 2, 1])],
)
def test_work_is_exactly_what_is_needed(
    fresh_tiny, counted, guidance_scale, negative, text_calls, rows
):
    unet, text = counted(fresh_tiny.unet), counted(fresh_tiny.text_encoder)
    decoder = counted(fresh_tiny.vae.decoder)
    request = REQUEST.with_changes(count=5, guidance_scale=guidance_scale, negative_prompt=negative)
    list(sample(fresh_tiny, request, batch_size=2, preview_every=0))
    assert unet == [n for n in rows for _ in range(request.steps)]
    assert len(text) == text_calls
    assert decoder == [2, 2, 1]


def test_progress_counts_every_step_of_the_job(tiny):
    events = [e for e in sample(tiny, REQUEST, batch_size=2) if isinstance(e, Progress)]
    assert [(e.step, e.steps) for e in events] == [(i, 8) for i in range(1, 9)]
    assert events[-1].seconds_left == 0


def test_first_preview_comes_after_two_steps_of_each_batch(tiny):
    events = list(sample(tiny, REQUEST, batch_size=2, preview_every=1000.0))
    names = [type(e).__name__ for e in events]
    assert names[:4] == ["Progress", "Progress", "Preview", "Preview"]
    assert [e.index for e in events if isinstance(e, Preview)] == [0, 1, 2]


def test_previews_can_be_switched_off(tiny):
    events = sample(tiny, REQUEST, preview_every=math.inf)
    assert not [e for e in events if isinstance(e, Preview)]


def test_previews_take_a_small_share_of_the_time(tiny):
    """However short the wished interval: the tiny model's steps are cheaper than a JPEG."""
    request = REQUEST.with_changes(steps=60, count=1)
    previews = [e for e in sample(tiny, request, preview_every=0.0) if isinstance(e, Preview)]
    assert 1 <= len(previews) < 30


def test_previews_are_small_jpegs_and_change_no_pixel(tiny):
    with_previews = list(sample(tiny, REQUEST, preview_every=0))
    jpegs = [Image.open(BytesIO(e.jpeg)) for e in with_previews if isinstance(e, Preview)]
    assert {(j.format, j.size) for j in jpegs} == {("JPEG", (64, 64))}
    without = sample(tiny, REQUEST, preview_every=math.inf)
    assert np.array_equal(pictures(with_previews), pictures(without))


def test_who_stops_pulling_stops_the_work(fresh_tiny, counted):
    calls = counted(fresh_tiny.unet)
    events = sample(fresh_tiny, REQUEST.with_changes(steps=50))
    for _ in range(3):
        next(events)
    events.close()
    assert len(calls) <= 3


def test_cancelled_job_ends_within_a_step_and_keeps_finished_pictures(fresh_tiny, counted):
    calls, seen = counted(fresh_tiny.unet), []
    request = REQUEST.with_changes(count=2)
    cancelled = [
        e
        for e in sample(
            fresh_tiny,
            request,
            batch_size=1,
            preview_every=math.inf,
            cancelled=lambda: sum(isinstance(e, Progress) for e in seen) >= 6,
        )
        if seen.append(e) is None
    ]
    assert len(calls) == 6
    assert len(pictures(cancelled)) == 1


def test_gradient_mode_does_not_leak_between_yields(tiny):
    events = sample(tiny, REQUEST, preview_every=0)
    for _ in events:
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()
        assert not torch.is_autocast_enabled("cpu")


def test_rollout_latents_can_be_trained_on(tiny):
    """The loop itself runs without gradients but outside inference mode."""
    latents = latents_by_our_loop(tiny, REQUEST)
    weight = torch.ones((), requires_grad=True)
    (latents * weight).sum().backward()
    assert weight.grad is not None


def test_a_long_prompt_says_what_was_left_out(tiny):
    request = REQUEST.with_changes(prompt="red apple " * 40 + "castle", count=1)
    notices = [e.sentence for e in sample(tiny, request) if isinstance(e, Notice)]
    assert len(notices) == 1
    assert "castle" in notices[0] and "75" in notices[0]


def test_empty_prompt_is_drawn_unconditionally(tiny):
    request = REQUEST.with_changes(prompt="", negative_prompt="", count=1)
    assert len(pictures(sample(tiny, request))) == 1


@pytest.mark.parametrize("size", [(64, 128), (128, 72), (88, 64)])
def test_pictures_have_the_size_that_was_asked_for(tiny, size):
    request = REQUEST.with_changes(width=size[0], height=size[1], count=1)
    (drawn,) = [e for e in sample(tiny, request) if isinstance(e, Drawn)]
    assert drawn.image.size == size


def test_not_a_number_is_an_error_and_never_a_black_picture(fresh_tiny):
    fresh_tiny.unet.conv_out.bias.data.fill_(float("nan"))
    with pytest.raises(ModelError, match="not numbers at step 1 of 4"):
        list(sample(fresh_tiny, REQUEST))


def test_not_a_number_while_decoding_is_an_error_too(fresh_tiny):
    fresh_tiny.vae.decoder.conv_out.bias.data.fill_(float("inf"))
    with pytest.raises(ModelError, match="while decoding"):
        list(sample(fresh_tiny, REQUEST))


def fail_above(network, rows: int, times: int = 1_000_000):
    """Let a network run out of memory for batches larger than `rows`, a number of times."""
    failures = []

    def raise_when_large(_, inputs):
        if len(inputs[0]) > rows and len(failures) < times:
            failures.append(len(inputs[0]))
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    network.register_forward_pre_hook(raise_when_large)
    return failures


def test_running_out_of_memory_halves_the_batch_and_draws_the_same(fresh_tiny, tiny):
    request = REQUEST.with_changes(count=4)
    failures = fail_above(fresh_tiny.unet, rows=2)  # two rows are one picture with guidance
    events = list(sample(fresh_tiny, request, batch_size=4))
    assert failures == [8, 4]
    assert np.array_equal(pictures(events), pictures(sample(tiny, request, batch_size=1)))
    assert sum(isinstance(e, Notice) for e in events) == 2
    steps = [(e.step, e.steps) for e in events if isinstance(e, Progress)]
    assert steps == [(i, 16) for i in range(1, 17)]


@pytest.mark.parametrize("step", [1, 2, 3, 4])
def test_running_out_of_memory_at_any_step_loses_no_picture(fresh_tiny, tiny, step):
    calls = []

    def raise_once(_, inputs):
        calls.append(len(inputs[0]))
        if len(calls) == step:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to ...")

    fresh_tiny.unet.register_forward_pre_hook(raise_once)
    events = list(sample(fresh_tiny, REQUEST.with_changes(count=2), batch_size=2))
    expected = pictures(sample(tiny, REQUEST.with_changes(count=2), batch_size=1))
    assert np.array_equal(pictures(events), expected)
    progress = [e.step / e.steps for e in events if isinstance(e, Progress)]
    assert progress[-1] == 1


def test_running_out_of_memory_while_decoding_decodes_in_parts(fresh_tiny, tiny):
    failures = fail_above(fresh_tiny.vae.decoder, rows=1)
    events = list(sample(fresh_tiny, REQUEST))
    assert failures == [3, 2]
    assert len(pictures(events)) == 3
    assert any("in parts" in e.sentence for e in events if isinstance(e, Notice))


def test_last_resort_is_decoding_in_tiles(fresh_tiny):
    fail_above(fresh_tiny.vae.decoder, rows=0, times=1)
    request = REQUEST.with_changes(width=128, count=1)
    events = list(sample(fresh_tiny, request))
    (drawn,) = [e for e in events if isinstance(e, Drawn)]
    assert drawn.image.size == (128, 64)
    assert any("in tiles" in e.sentence for e in events if isinstance(e, Notice))
    assert not fresh_tiny.vae.use_tiling


def test_no_memory_at_all_ends_with_a_sentence(fresh_tiny):
    fail_above(fresh_tiny.unet, rows=0)
    with pytest.raises(NotEnoughMemoryError, match="Choose a smaller size"):
        list(sample(fresh_tiny, REQUEST))


def test_other_errors_are_not_taken_for_lack_of_memory(fresh_tiny):
    def fail(_, inputs):
        raise RuntimeError("shapes cannot be multiplied")

    fresh_tiny.unet.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="multiplied"):
        list(sample(fresh_tiny, REQUEST))


def test_estimate_grows_with_size_batch_and_guidance(tiny):
    small = estimated_bytes(tiny, REQUEST)
    assert estimated_bytes(tiny, REQUEST.with_changes(width=1024, height=1024)) > small
    large = REQUEST.with_changes(width=1024, height=1024, guidance_scale=1.0)
    assert estimated_bytes(tiny, large.with_changes(guidance_scale=9.0)) > small
    assert estimated_bytes(tiny, large, 2) > estimated_bytes(tiny, large, 1)
    assert estimated_bytes(tiny, large, 1, tiled=True) < estimated_bytes(tiny, large, 1)


def test_size_beyond_memory_is_refused_with_numbers_before_any_work(fresh_tiny, counted):
    calls = counted(fresh_tiny.unet)
    request = REQUEST.with_changes(width=4096, height=2304)
    with pytest.raises(NotEnoughMemoryError, match=r"about \d+\.\d GB .* Try \d+ x \d+"):
        list(sample(fresh_tiny, request, memory_limit=300_000_000))
    assert calls == []


def test_batch_is_cut_to_what_fits(tiny):
    large = REQUEST.with_changes(width=1024, height=1024, count=4, guidance_scale=1.0)
    one, all_four = estimated_bytes(tiny, large, 1), estimated_bytes(tiny, large, 4)
    assert plan_memory(tiny, large, 4, limit=all_four).batch_size == 4
    assert plan_memory(tiny, large, 4, limit=one).batch_size == 1
    assert not plan_memory(tiny, large, 4, limit=one).tiled
    assert plan_memory(tiny, large, 4, limit=one - 1).tiled


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("source", {"source": "ab" * 32}),
        ("adapters", {"adapters": (AdapterUse("x", "ab" * 32),)}),
    ],
)
def test_what_cannot_be_drawn_yet_is_refused_at_its_field(tiny, field, changes):
    with pytest.raises(InvalidRequestError) as refusal:
        list(sample(tiny, REQUEST.with_changes(**changes)))
    assert refusal.value.field == field
