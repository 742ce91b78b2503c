"""The recipe from pictures to a model that stock diffusers draws with, in two steps a stage."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.models.autoencoders.vae import Encoder
from safetensors.torch import load_file, save_file
from transformers import CLIPImageProcessor, CLIPTextModel, CLIPVisionModelWithProjection

from studio.core.errors import TrainingError
from studio.core.events import Event, StageArtifact, StageProgress
from studio.core.request import GenerationRequest
from studio.diffusion.model import load_model
from studio.diffusion.sampler import Drawn, sample
from studio.training.dataset.corpus import Corpus, drawn_rows
from studio.training.dataset.sources import ALL_STYLES, DRAWN_STYLES
from studio.training.dataset.split import SPLIT
from studio.training.loop import LoopConfig
from studio.training.stages import autoencoder, clip, pretrain, starter
from studio.training.stages.autoencoder import AutoencoderConfig
from studio.training.stages.pretrain import FRAMES, UnetConfig
from studio.training.stages.towers import ClipConfig, normalise
from studio.training.stages.warm_start import write_start
from tests.training.synthetic import SUBJECTS, make_corpus, word_bank

LOOP = LoopConfig(steps=2, learning_rate=1e-3, checkpoint_every=1, ema_decay=0.5)
VAE = AutoencoderConfig(channels=(4, 4, 8, 8), norm_num_groups=2, batch_size=2, scenes=4, loop=LOOP)
CLIP = ClipConfig(
    width=32, layers=1, heads=2, projection=16, vocabulary=620, patch=32, batch_size=4, scenes=4,
    words=8, checked=40, loop=LOOP,
)  # fmt: skip
UNET = UnetConfig(
    channels=(32, 32, 32), heads=2, text_width=32, batch_size=2, loop=LOOP,
    frames=tuple(replace(frame, scenes=4) for frame in FRAMES),
)  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """One run of all the stages."""

    folders: Path
    corpus: Corpus
    events: dict[str, list[Event]]

    @property
    def model(self) -> Path:
        return self.folders / "starter"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Recipe:
    folders = tmp_path_factory.mktemp("recipe")
    corpus = make_corpus(folders / "corpus")
    events = {
        "autoencoder": list(autoencoder.train(corpus, VAE, folders / "autoencoder")),
        "clip": list(clip.train(corpus, word_bank(), CLIP, folders / "clip")),
        "unet": list(pretrain.train(corpus, UNET, folders)),
        "starter": list(starter.assemble(corpus, UNET, folders, folders / "starter")),
    }
    return Recipe(folders, corpus, events)


@pytest.fixture(scope="module")
def pipeline(recipe) -> StableDiffusionPipeline:
    found = StableDiffusionPipeline.from_pretrained(recipe.model, local_files_only=True)
    found.set_progress_bar_config(disable=True)
    return found


def test_every_stage_tells_its_progress_and_writes_something_to_look_at(recipe):
    for stage in ("autoencoder", "clip", "unet"):
        progress = [e for e in recipe.events[stage] if isinstance(e, StageProgress)]
        assert progress[0].step == progress[0].steps == 2
        assert np.isfinite(progress[0].metrics["loss"])
    for stage, events in recipe.events.items():
        artifacts = [Path(e.path) for e in events if isinstance(e, StageArtifact)]
        assert artifacts and all(e.stage == stage for e in events)
        assert artifacts[-1].exists()


def test_the_compression_is_reported_and_is_48(recipe):
    assert recipe.events["autoencoder"][-1].metrics["compression"] == 48


def test_the_clip_pair_is_taught_all_three_lessons(recipe):
    [*_, last] = [e.metrics for e in recipe.events["clip"] if "loss" in getattr(e, "metrics", {})]
    lessons = last["contrast"] + CLIP.distillation * last["distillation"]
    assert last["composition"] > 0.1
    assert last["loss"] == pytest.approx(lessons + CLIP.composition * last["composition"], rel=0.01)


def test_the_clip_pair_reports_how_often_a_caption_finds_its_picture(recipe):
    figures = recipe.events["clip"][-1].metrics
    assert 0 <= figures["held_out_first_1"] <= figures["held_out_first_5"] <= 1
    assert {"seen_first_1", "unseen_words_land_near"} <= figures.keys()
    assert any(name.startswith("tells_") for name in figures)


def test_the_pipeline_of_diffusers_draws_with_the_model_as_it_stands(pipeline):
    image = pipeline("cat, 3d render", num_inference_steps=2, output_type="np").images[0]
    assert image.shape == (128, 128, 3)
    assert np.isfinite(image).all()
    assert {p.dtype for p in pipeline.text_encoder.parameters()} == {torch.float32}
    assert pipeline.scheduler.config.prediction_type == "v_prediction"
    assert (pipeline.scheduler.config.steps_offset, pipeline.scheduler.config.clip_sample) == (
        1,
        False,
    )


def test_the_studio_draws_with_the_model(recipe):
    model = load_model(recipe.model, "assembled", device="cpu", dtype=torch.float32)
    assert model.native_size == (128, 128)
    request = GenerationRequest(prompt="dog", width=128, height=128, steps=2, seed=1)
    [drawn] = [e for e in sample(model, request) if isinstance(e, Drawn)]
    assert drawn.image.size == (128, 128)


def test_the_unet_was_trained_on_the_features_that_the_pipeline_gives_it(recipe, pipeline):
    captions = ["", "cat, 3d render", "dog, toy, pencil sketch, on the left"]
    _, tokenizer, text = pretrain.load_encoders(recipe.folders)
    trained_on = pretrain.encode_captions(tokenizer, text, captions).float()
    given = pipeline.encode_prompt(captions, "cpu", 1, do_classifier_free_guidance=False)[0]
    assert trained_on.shape == (3, 77, 32)
    torch.testing.assert_close(trained_on, given, rtol=0, atol=0.02)  # bf16 there, fp16 here
    assert (trained_on[1] - trained_on[2]).abs().max() > 0.1


@pytest.mark.parametrize("part", ["text_encoder", "image_encoder"])
def test_a_part_of_transformers_says_that_it_is_loaded_in_full_precision(recipe, tmp_path, part):
    kinds = {"text_encoder": CLIPTextModel, "image_encoder": CLIPVisionModelWithProjection}

    def dtypes(folder: Path) -> set[torch.dtype]:
        loaded = kinds[part].from_pretrained(folder, local_files_only=True)
        return {parameter.dtype for parameter in loaded.parameters()}

    assert dtypes(recipe.model / part) == {torch.float32}
    mute = shutil.copytree(recipe.model / part, tmp_path / part)
    config = json.loads((mute / "config.json").read_text(encoding="utf-8"))
    assert config.pop("dtype") == "float32"
    (mute / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert dtypes(mute) == {torch.float16}  # without the word it would be half precision


def test_the_weights_are_stored_in_half_precision(recipe):
    files = list(recipe.model.rglob("*.safetensors"))
    assert {f.parent.name for f in files} == {"unet", "vae", "text_encoder", "image_encoder"}
    kinds = {t.dtype for f in files for t in load_file(f).values() if t.is_floating_point()}
    assert kinds == {torch.float16}


def test_the_latents_of_the_corpus_have_unit_variance(recipe):
    vae, _, _ = pretrain.load_encoders(recipe.folders)
    rows = drawn_rows(recipe.corpus, everything=False)
    latents = autoencoder.encode(vae, recipe.corpus.pictures[rows])
    torch.testing.assert_close(latents.std(dim=(0, 2, 3)), torch.ones(4), rtol=1e-3, atol=0)
    assert latents.mean(dim=(0, 2, 3)).abs().max() < 1e-3


def test_the_vision_tower_and_both_projections_come_along(recipe):
    pictures = recipe.corpus.pictures[:3]
    processor = CLIPImageProcessor.from_pretrained(recipe.model / "feature_extractor")
    values = processor(list(pictures), return_tensors="pt").pixel_values
    torch.testing.assert_close(values, normalise(torch.from_numpy(pictures)))
    tower = CLIPVisionModelWithProjection.from_pretrained(recipe.model / "image_encoder")
    assert tower(values.to(tower.dtype)).image_embeds.shape == (3, 16)
    projection = load_file(recipe.model / "text_encoder" / "text_projection.safetensors")
    whole = load_file(recipe.folders / "clip" / "text_with_projection" / "model.safetensors")
    expected = whole["text_projection.weight"].half()
    assert torch.equal(projection["text_projection.weight"], expected)


def test_a_sketch_is_drawn_from_as_often_as_configured(recipe):
    cache = pretrain.build_cache(recipe.corpus, UNET, *pretrain.load_encoders(recipe.folders))
    entries = recipe.corpus.entries
    rows = drawn_rows(recipe.corpus, everything=False)
    sketches = np.array([entries[r].style in ("pencil sketch", "ink drawing") for r in rows])
    single = cache.weights[0][: len(rows)]
    assert [w.sum() for w in cache.weights] == pytest.approx([1, 1, 1])
    assert single.sum() == pytest.approx(1 - UNET.scene_share)
    share = single[sketches].sum() / single.sum()
    assert share == pytest.approx(UNET.monochrome_share)
    assert len(rows) == 14  # three subjects in five styles, but for one pair that is held out
    assert [tuple(latents.shape) for latents in cache.latents] == [
        (18, 4, 16, 16),
        (4, 4, 12, 22),
        (4, 4, 22, 12),
    ]
    assert [c.shape for c in cache.captions] == [(18, 2), (4, 2), (4, 2)]
    assert max(c.max() for c in cache.captions) < len(cache.features)


def test_each_distinct_caption_is_encoded_once_and_each_picture_once_and_no_step_encodes(
    recipe, tmp_path
):
    """`load_encoders` is what a U-Net's training gets its encoders from; here they are watched."""
    copy_encoders(recipe, tmp_path)
    read: list[torch.Tensor] = []  # token ids
    seen: list[int] = []  # pictures
    during: list[str] = []  # what was encoded after the first step

    def watch(module: torch.nn.Module, inputs: tuple, _output: object) -> None:
        if isinstance(module, CLIPTextModel):
            read.append(inputs[0])
        elif isinstance(module, Encoder):
            seen.append(len(inputs[0]))
        else:
            return
        during.extend([type(module).__name__] * stepped)

    stepped = False
    handle = torch.nn.modules.module.register_module_forward_hook(watch)
    try:
        for _ in pretrain.train(recipe.corpus, UNET, tmp_path):
            stepped = True
    finally:
        handle.remove()
    ids = torch.cat(read)
    cache = pretrain.build_cache(recipe.corpus, UNET, *pretrain.load_encoders(recipe.folders))
    assert len(ids) == len(ids.unique(dim=0)) == len(cache.features)
    assert sum(seen) == sum(len(latents) for latents in cache.latents)
    assert during == []


def test_the_model_says_what_it_was_shown_and_by_which_split(recipe):
    about = json.loads((recipe.model / "easel.json").read_text(encoding="utf-8"))
    assert about["styles"] == [style for style in ALL_STYLES if style in DRAWN_STYLES]
    assert about["split"] == SPLIT
    subjects = (recipe.model / "subjects.txt").read_text(encoding="utf-8").splitlines()
    assert subjects == list(SUBJECTS[:3])  # the fourth is held out


def test_a_corpus_of_another_size_than_the_models_is_a_sentence(recipe, tmp_path):
    copy_encoders(recipe, tmp_path)
    small = make_corpus(tmp_path / "corpus", size=32)
    with pytest.raises(TrainingError, match=r"32 pixels and the model draws 128. Run .*--profile"):
        next(pretrain.train(small, UNET, tmp_path))


def copy_encoders(recipe: Recipe, folders: Path) -> None:
    shutil.copytree(recipe.folders / "autoencoder" / "vae", folders / "autoencoder" / "vae")
    shutil.copytree(recipe.folders / "clip", folders / "clip")


def test_the_unet_resumed_after_a_stop_is_the_one_that_never_stopped(recipe, tmp_path):
    copy_encoders(recipe, tmp_path)
    stopped = pretrain.train(recipe.corpus, UNET, tmp_path)
    assert Path(next(stopped).path).name == "checkpoint-00000001"
    stopped.close()
    list(pretrain.train(recipe.corpus, UNET, tmp_path))
    name = Path("unet", "unet", "diffusion_pytorch_model.safetensors")
    resumed, whole = load_file(tmp_path / name), load_file(recipe.folders / name)
    assert resumed.keys() == whole.keys()
    assert all(torch.equal(resumed[k], whole[k]) for k in whole)


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("autoencoder/vae/diffusion_pytorch_model.safetensors", "the autoencoder is another one"),
        ("clip/text_with_projection/model.safetensors", "the text encoder is another one"),
    ],
)
def test_a_u_net_does_not_go_on_with_other_encoders_than_it_began_with(
    recipe, tmp_path, file, said
):
    copy_encoders(recipe, tmp_path)
    shutil.copytree(recipe.folders / "unet", tmp_path / "unet")
    longer = replace(UNET, loop=replace(LOOP, steps=3))
    weights = load_file(tmp_path / file)
    save_file({name: 1.01 * value for name, value in weights.items()}, tmp_path / file)
    with pytest.raises(TrainingError, match=said):
        list(pretrain.train(recipe.corpus, longer, tmp_path))


def test_a_u_net_does_not_go_on_from_a_model_that_it_did_not_begin_from(recipe, tmp_path):
    copy_encoders(recipe, tmp_path)
    shutil.copytree(recipe.folders / "unet", tmp_path / "unet")
    with pytest.raises(TrainingError, match=r"did not begin from what --from names"):
        list(pretrain.train(recipe.corpus, UNET, tmp_path, start=recipe.model))
    assert not (tmp_path / "unet" / "start.json").exists()


def test_a_model_of_unfinished_stages_is_a_sentence(recipe, tmp_path):
    copy_encoders(recipe, tmp_path)
    with pytest.raises(TrainingError, match=r"unet is not trained yet; run its stage first"):
        list(starter.assemble(recipe.corpus, UNET, tmp_path, tmp_path / "starter"))


def test_a_model_is_assembled_again_over_itself(recipe, tmp_path):
    shutil.copytree(recipe.model, tmp_path / "starter")
    list(starter.assemble(recipe.corpus, UNET, recipe.folders, tmp_path / "starter"))
    names = [
        sorted(p.relative_to(f) for p in f.rglob("*")) for f in (recipe.model, tmp_path / "starter")
    ]
    assert names[0] == names[1]


def contents(folder: Path) -> dict[Path, bytes]:
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_model_is_replaced_whole_and_keeps_its_card(recipe, tmp_path):
    target = shutil.copytree(recipe.model, tmp_path / "starter")
    (target / "MODEL_CARD.md").write_text("What it knows.", encoding="utf-8")
    (target / "unet" / "left-over.bin").write_bytes(b"of an older recipe")
    list(starter.assemble(recipe.corpus, UNET, recipe.folders, target))
    assert contents(target).keys() == contents(recipe.model).keys() | {Path("MODEL_CARD.md")}
    assert [path.name for path in tmp_path.iterdir()] == ["starter"]


def test_an_assembly_that_fails_half_way_leaves_the_model_as_it_was(recipe, tmp_path):
    folders = tmp_path / "stages"
    shutil.copytree(recipe.folders, folders, ignore=shutil.ignore_patterns("starter", "corpus"))
    (folders / "clip" / "image_encoder" / "model.safetensors").write_bytes(b"torn")
    target = shutil.copytree(recipe.model, tmp_path / "starter")
    before = contents(target)
    with pytest.raises(TrainingError, match=r"image_encoder is damaged. Delete that folder and"):
        list(starter.assemble(recipe.corpus, UNET, folders, target))
    assert contents(target) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["stages", "starter"]


def test_a_u_net_goes_on_from_a_model_that_is_there(recipe, tmp_path):
    for stage in ("autoencoder", "clip"):
        shutil.copytree(recipe.folders / stage, tmp_path / stage)
    again = replace(UNET, loop=replace(LOOP, learning_rate=1e-9, ema_decay=0.0))
    events = list(pretrain.train(recipe.corpus, again, tmp_path, start=recipe.model))

    [found] = [e.metrics for e in events if isinstance(e, StageProgress) and e.step == 0]
    assert found["explained"] > 0.99  # the same tower
    before = load_file(recipe.model / "unet" / "diffusion_pytorch_model.safetensors")
    after = load_file(tmp_path / "unet" / "unet" / "diffusion_pytorch_model.safetensors")
    for name, weight in before.items():
        if name.endswith(("attn2.to_k.weight", "attn2.to_v.weight")):
            continue  # turned by what was fitted to a few captions (test_warm_start.py)
        slack = 2e-3  # of fp16
        assert (after[name] - weight.float()).norm() <= slack * weight.float().norm() + 1e-5, name


def test_a_model_that_went_on_says_what_its_predecessor_was_shown(recipe, tmp_path):
    for stage in ("autoencoder", "clip", "unet"):
        shutil.copytree(recipe.folders / stage, tmp_path / stage)
    older = tmp_path / "older"
    shutil.copytree(recipe.model, older)
    about = json.loads((older / "easel.json").read_text(encoding="utf-8"))
    del about["split"]  # made before anything was held out
    (older / "easel.json").write_text(json.dumps(about), encoding="utf-8")
    write_start(tmp_path / "unet", older)
    list(starter.assemble(recipe.corpus, UNET, tmp_path, tmp_path / "starter"))
    about = json.loads((tmp_path / "starter" / "easel.json").read_text(encoding="utf-8"))
    assert about["shown_before"] == sorted(about["styles"])
    assert "shown_before" not in (recipe.model / "easel.json").read_text(encoding="utf-8")
