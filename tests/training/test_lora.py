"""An artist's own style: what is learned, what is refused, and that a pause changes nothing."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file

from studio.core.errors import TrainingError
from studio.core.events import Notice, StageArtifact, StageProgress
from studio.core.request import GenerationRequest
from studio.diffusion.adapter_files import read_lineage
from studio.diffusion.adapters import drawn_with
from studio.diffusion.denoise import SchedulerTransition, denoise
from studio.diffusion.latents import encode, from_uint8, initial_latents, picture_generators
from studio.diffusion.model import LatentDiffusionModel, load_model
from studio.diffusion.sampler import Drawn, sample
from studio.diffusion.samplers import DDIM, make_scheduler
from studio.diffusion.text import encode_prompts
from studio.training import lora
from studio.training.buckets import WIDEST, bucket_sizes, fit, nearest_bucket
from studio.training.loop import LoopConfig
from studio.training.lora import Example, LoraConfig, full_caption
from tests.diffusion.tiny_model import build_tiny_model

RED = (200, 30, 40)
SHORT = LoraConfig(
    "red",
    rank=4,
    look_steps=2,
    look_pictures=1,
    guidance_scale=1.0,
    loop=LoopConfig(steps=6, learning_rate=1e-2, warmup=1, checkpoint_every=4, report_every=1),
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("lora") / "tiny")


@pytest.fixture
def model(tiny: Path) -> LatentDiffusionModel:
    return load_model(tiny, "tiny", "cpu", torch.float32, sha256="ab")


def flat(count: int = 5, caption: str = "red apple", size: tuple[int, int] = (64, 64)):
    return [Example(f"{n}.png", Image.new("RGB", size, RED), caption) for n in range(count)]


def taught(model, examples, config, folder):
    return list(lora.train(model, examples, config, folder))


def drawn_latents(model: LatentDiffusionModel, prompt: str) -> torch.Tensor:
    generators = picture_generators([1, 2, 3, 4])
    transition = SchedulerTransition(make_scheduler(DDIM, model.scheduler_config, 10), generators)
    latents = transition.begin(initial_latents(generators, model.latent_shape(64, 64)))
    for step in denoise(model.unet, latents, encode_prompts(model, [prompt] * 4), transition, 1.0):
        latents = step.latents
    return latents


class OnTheAdapter:
    """Draws latents with an adapter file acting, as the studio does."""

    def __init__(self, model: LatentDiffusionModel, path: Path) -> None:
        self.model, self.path = model, path

    def latents(self, prompt: str) -> torch.Tensor:
        def events():
            yield drawn_latents(self.model, prompt)

        return next(drawn_with(self.model, [(self.path, 1.0)], events()))


def test_five_pictures_of_one_colour_draw_the_model_towards_that_colour(model, tmp_path):
    loop = replace(SHORT.loop, steps=70, learning_rate=2e-2, warmup=5, checkpoint_every=70)
    before = drawn_latents(model, "red apple")
    taught(model, flat(), replace(SHORT, rank=16, loop=loop), tmp_path)
    assert torch.equal(drawn_latents(model, "red apple"), before)  # the base is as it was
    after = OnTheAdapter(model, tmp_path / "adapter.safetensors").latents("red apple")
    with torch.no_grad():
        wanted = encode(model.vae, from_uint8(np.full((1, 64, 64, 3), RED, np.uint8)))
    assert (after - wanted).square().mean() < 0.6 * (before - wanted).square().mean()


def test_the_exported_file_draws_the_same_in_diffusers(model, tiny, tmp_path):
    taught(model, flat(), SHORT, tmp_path)
    request = GenerationRequest(
        prompt="red apple", width=64, height=64, steps=4, seed=3, guidance_scale=3.0, model="tiny"
    )
    ours = [
        event.image
        for event in drawn_with(
            model, [(tmp_path / "adapter.safetensors", 1.0)], sample(model, request)
        )
        if isinstance(event, Drawn)
    ]
    pipeline = StableDiffusionPipeline.from_pretrained(tiny, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": 4, "guidance_scale": 3.0, "width": 64, "height": 64}
    pictures = []
    for name in (None, "adapter.safetensors", "adapter.kohya.safetensors"):
        if name:
            pipeline.load_lora_weights(tmp_path, weight_name=name)
        chance = torch.Generator().manual_seed(3)
        drawn = pipeline("red apple", generator=chance, output_type="np", **options)
        pictures.append((drawn.images[0] * 255).round().astype(int))
        if name:
            pipeline.unload_lora_weights()
    bare, theirs, kohya = pictures
    found = np.asarray(ours[0]).astype(int)
    assert np.abs(found - theirs).max() <= 1
    assert np.abs(theirs - kohya).max() <= 1
    assert np.abs(bare - theirs).max() > 1


def test_a_run_that_is_paused_at_any_step_ends_bit_equal_to_one_that_is_not(model, tmp_path):
    taught(model, flat(), SHORT, tmp_path / "whole")
    for pause in (1, 3, 5):
        events = lora.train(model, flat(), SHORT, tmp_path / "paused")
        for event in events:
            if isinstance(event, StageProgress) and (event.stage, event.step) == ("lora", pause):
                events.close()
    rest = taught(model, flat(), SHORT, tmp_path / "paused")
    steps = [e.step for e in rest if isinstance(e, StageProgress) and e.stage == "lora"]
    assert steps == [6]  # nothing that was trained is trained again
    for name in ("adapter.safetensors", "adapter.kohya.safetensors", "run.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "paused" / name).read_bytes()
    losses = [
        [json.loads(line)["loss"] for line in (tmp_path / run / "log.jsonl").open()]
        for run in ("whole", "paused")
    ]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 6


def test_the_loss_is_the_mean_squared_error_of_what_the_model_predicts(tmp_path, tiny):
    """Against diffusers' own noising and target, for both kinds of model."""
    for kind in ("epsilon", "v_prediction"):
        folder = build_tiny_model(tmp_path / kind, prediction_type=kind)
        model = load_model(folder, kind, "cpu", torch.float32, sha256="ab")
        config = replace(SHORT, snr_cap=math.inf)
        encoded = last(lora.prepare(model, flat(), config))
        alphas = DDIMScheduler.from_pretrained(folder, subfolder="scheduler").alphas_cumprod
        loss, _ = lora.step_loss(model, encoded, (config, alphas), 3, lora.Hardware(model.device))
        latents, features = lora.draw_batch(encoded, config, 3)
        t = lora.stratified_timesteps(4, lora.step_generator(0, 3, stream=1))
        noise = torch.randn(latents.shape, generator=lora.torch_generator(0, 3))
        scheduler = DDIMScheduler.from_pretrained(folder, subfolder="scheduler")
        with torch.no_grad():
            output = model.unet(scheduler.add_noise(latents, noise, t), t, features).sample
        wanted = noise if kind == "epsilon" else scheduler.get_velocity(latents, noise, t)
        torch.testing.assert_close(loss, torch.nn.functional.mse_loss(output, wanted))


def last(events):
    while True:
        try:
            next(events)
        except StopIteration as end:
            return end.value


def test_pictures_of_all_shapes_are_taught_in_their_own(model):
    shapes = [(64, 64), (100, 100), (640, 320), (30, 60)]
    examples = [Example(str(s), Image.new("RGB", s, RED), "cat") for s in shapes]
    encoded = last(lora.prepare(model, examples, SHORT))
    found = {tuple(part.shape[2:]): len(part) for part in encoded.latents}
    assert found == {(10, 6): 1, (8, 8): 2, (6, 10): 1}
    seen = {lora.draw_batch(encoded, SHORT, step)[0].shape[2:] for step in range(40)}
    assert seen == set(found)


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_a_bucket_is_a_shape_that_the_model_can_draw(width, height):
    buckets = bucket_sizes((512, 512), 64)
    chosen = nearest_bucket((width, height), buckets)
    assert chosen in buckets
    assert all(side % 64 == 0 for side in chosen)
    assert chosen[0] * chosen[1] <= 512 * 512
    assert 1 / WIDEST <= chosen[0] / chosen[1] <= WIDEST
    assert (chosen[0] > chosen[1]) <= (width > height)
    assert nearest_bucket((height, width), buckets) == chosen[::-1]


def test_a_picture_is_cropped_in_its_middle_and_never_stretched():
    picture = Image.new("RGB", (300, 100), "white")
    picture.paste("black", (100, 0, 200, 100))
    pixels = np.asarray(fit(picture, (64, 64)))
    assert pixels.shape == (64, 64, 3)
    assert pixels[:, 4:-4].max() == 0


@pytest.mark.parametrize(
    ("caption", "trigger", "whole"),
    [
        ("a cat", "zyx", "a cat, zyx"),
        ("a ZYX cat", "zyx", "a ZYX cat"),
        ("", "zyx", "zyx"),
        ("  a \n cat ", "", "a cat"),
        ("猫が座っている", "線画", "猫が座っている, 線画"),
        ("", "", ""),
    ],
)
def test_the_trigger_word_stands_in_every_caption(caption, trigger, whole):
    assert full_caption(caption, trigger) == whole


@settings(max_examples=30, deadline=None)
@given(st.text(max_size=300))
def test_any_text_can_be_a_caption(tiny_once, caption):
    features = encode_prompts(tiny_once, [full_caption(caption, "x")])
    assert features.isfinite().all()


@pytest.fixture(scope="module")
def tiny_once(tiny: Path) -> LatentDiffusionModel:
    return load_model(tiny, "tiny", "cpu", torch.float32, sha256="ab")


def test_one_caption_in_ten_is_left_empty_and_each_picture_comes_as_often(model):
    examples = [replace(e, caption=f"cat {n}") for n, e in enumerate(flat(6))]
    encoded = last(lora.prepare(model, examples, SHORT))
    drawn = [lora.draw_batch(encoded, SHORT, step) for step in range(600)]
    empty = torch.cat([(f == encoded.features[0]).all(dim=(1, 2)) for _, f in drawn])
    assert 0.075 < empty.double().mean() < 0.125
    assert all(len(latents) == 4 for latents, _ in drawn)


def test_too_few_pictures_and_pictures_without_words_are_refused(model, tmp_path):
    for count, said in ((0, "There are 0"), (1, "There is 1"), (2, "There are 2")):
        with pytest.raises(TrainingError, match=f"{said} picture.* at least 3. Add more."):
            taught(model, flat(count), SHORT, tmp_path)
    with pytest.raises(TrainingError, match="Give a trigger word, or write captions"):
        taught(model, flat(3, caption=" "), SHORT, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_inpainting_checkpoint_is_not_taught(tmp_path):
    folder = build_tiny_model(tmp_path / "nine", in_channels=9)
    model = load_model(folder, "nine", "cpu", torch.float32, sha256="ab")
    with pytest.raises(TrainingError, match=r"inpainting checkpoint.* choose the ordinary model"):
        taught(model, flat(), SHORT, tmp_path / "run")


def test_a_folder_with_another_run_is_not_touched(model, tmp_path):
    events = lora.train(model, flat(), SHORT, tmp_path)
    next(events)
    events.close()
    kept = (tmp_path / "run.json").read_bytes()
    for examples, config, said in (
        (flat(4), SHORT, "its pictures or captions were others"),
        (flat(5, "a cat"), SHORT, "its pictures or captions were others"),
        (flat(), replace(SHORT, rank=8), "its settings were others"),
    ):
        with pytest.raises(TrainingError, match=f"holds another run: {said}. Choose another name"):
            taught(model, examples, config, tmp_path)
    model.sha256 = "cd"
    with pytest.raises(TrainingError, match="its base model was another one"):
        taught(model, flat(), SHORT, tmp_path)
    assert (tmp_path / "run.json").read_bytes() == kept


def test_the_file_tells_where_it_comes_from(model, tmp_path):
    config = replace(SHORT, trigger="zyx")
    events = taught(model, flat(3), config, tmp_path)
    told = read_lineage(tmp_path / "adapter.safetensors")
    assert told["made_by"] == "easel lora"
    assert (told["base"], told["base_sha256"], told["trigger"]) == ("tiny", "ab", "zyx")
    assert len(told["pictures"]) == 3
    assert told["config"]["loop"]["steps"] == 6
    artifacts = [Path(e.path).name for e in events if isinstance(e, StageArtifact)]
    assert artifacts[0] == "step-000000.png"
    assert artifacts[-2:] == ["step-000006.png", "adapter.safetensors"]
    assert load_file(tmp_path / "adapter.kohya.safetensors").keys()


def test_a_caption_that_the_model_cannot_read_whole_is_told(model, tmp_path):
    events = lora.train(model, flat(3, caption="cat " * 100), SHORT, tmp_path)
    first = next(events)
    events.close()
    assert isinstance(first, Notice)
    assert first.sentence.startswith("0.png: The prompt has 100 tokens and this model reads 75")


def test_a_large_model_is_taught_more_gently(model):
    small = lora.usual_config(model, "a", "b")
    assert small == LoraConfig("a", "b")
    with torch.device("meta"):
        model.unet.lots = torch.nn.Linear(10_000, 10_001)
    large = lora.usual_config(model, "a", "b")
    assert large.loop.learning_rate == 0.1 * small.loop.learning_rate
    assert large.layers == "transformer"
