"""`train all --profile h200 --rehearse`: the large run from carried originals to a card, tiny."""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

from studio.core.events import Notice, StageProgress
from studio.core.settings import Settings
from studio.training.dataset import corpus, sources
from studio.training.dataset.packages import fetch_packages
from studio.training.dataset.split import NEW_SUBJECT, SPLIT, split
from studio.training.dataset.words import WORDS, write_words
from studio.training.stages import card, command_line, evaluation, warm_start
from studio.training.stages.evaluation import (
    EvaluationConfig,
    Examined,
    evaluate,
    groups_of,
    reconstructions,
)
from studio.training.stages.judge import JudgeConfig, load_network
from studio.training.stages.profiles import PROFILES
from tests.training.synthetic import ellipse, make_corpus, make_packages

LABELS = [f"{a}{b}{a}" for a in "bdfgklmn" for b in "aeiou"]


def carry(folder: Path, scratch: Path) -> None:
    """Put into `folder` what a machine without a network is given: originals and words."""
    pinned = make_packages(scratch / "packages")
    list(fetch_packages(scratch / "packages", pinned))
    some = list(sources.read_originals(scratch / "packages"))
    more = [
        replace(some[0], subject=label, style=style, content=shape(number, place).encode())
        for number, label in enumerate(LABELS)
        for place, style in enumerate(sources.ALL_STYLES[:6])
    ]
    folder.mkdir(parents=True)
    path = folder / "originals.zip"
    sources.write_originals(path, iter(some + more), corpus._origin(corpus.PACKAGES))
    encoder = next((scratch / "packages").glob("gt_all*none-any"))
    write_words(folder / WORDS, encoder, sorted({o.subject for o in some + more}))


def shape(number: int, place: int) -> str:
    turned = f'<g transform="rotate({7 * number} 8 8) scale({0.6 + 0.06 * place})">'
    return sources._svg(f"{turned}{ellipse(number % 4)}</g>", 16, 16)


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory) -> tuple[int, Settings, Path]:
    threads = torch.get_num_threads()
    settings = Settings(data_dir=tmp_path_factory.mktemp("rehearsal"))
    folder = settings.training_dir / "h200" / "rehearsal"
    carry(folder / "corpus", tmp_path_factory.mktemp("scratch"))
    args = argparse.Namespace(stage="all", rest=["--profile", "h200", "--rehearse"])
    status = command_line.train(args, settings)
    torch.set_num_threads(threads)
    return status, settings, folder


def test_every_stage_is_passed_without_packages_or_network(rehearsed):
    status, _, folder = rehearsed
    assert status == 0
    assert not (folder / "corpus" / "packages").exists()
    assert {p.name for p in folder.iterdir()} == {
        "corpus", "autoencoder", "clip", "unet", "starter", "card",
    }  # fmt: skip


def test_the_model_is_whole_and_drawn_with_by_diffusers(rehearsed):
    model = rehearsed[2] / "starter"
    about = json.loads((model / "easel.json").read_text(encoding="utf-8"))
    assert about["split"] == SPLIT
    assert about["trained_sizes"] == [[64, 64], [96, 64], [64, 96]]
    assert set(about["styles"]) == set(sources.ALL_STYLES)
    pipeline = StableDiffusionPipeline.from_pretrained(model, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline("cat, 3d render", num_inference_steps=2, output_type="np").images[0]
    assert image.shape == (64, 64, 3) and np.isfinite(image).all()


def test_nothing_that_is_held_out_is_among_its_subjects(rehearsed):
    subjects = (rehearsed[2] / "starter" / "subjects.txt").read_text(encoding="utf-8").splitlines()
    parts = split([(subject, "3d render") for subject in subjects])
    assert subjects and NEW_SUBJECT not in parts
    held = corpus.load(rehearsed[2] / "corpus").rows(None, sources.ALL_STYLES, (NEW_SUBJECT,))
    assert len(held)


def test_the_card_holds_every_figure_and_licence(rehearsed):
    text = (rehearsed[2] / "starter" / "MODEL_CARD.md").read_text(encoding="utf-8")
    figures = json.loads((rehearsed[2] / "card" / "figures.json").read_text(encoding="utf-8"))
    names = {r["metric"] for r in figures}
    for wanted in (
        "3d render, seen, first 5",
        "3d render, held-out pairs, first 5",
        "3d render, held-out subjects, Frechet distance",
        "all held-out pictures, Frechet distance",
        "scenes, on the side that was asked for",
        "scenes, of the size that was asked for",
        "autoencoder, held-out pictures, PSNR",
        "autoencoder, held-out pictures, SSIM",
        "autoencoder, held-out pictures, Frechet distance of features",
        "peak memory",
    ):
        assert wanted in names, sorted(names)
    assert all(f"| {name} |" in text for name in names)
    assert all(licence in text for licence in ("MIT", "CC-BY-3.0", "public domain"))
    assert "Early maps of the same network" in text
    assert "There are no figures of pictogram and clip art" in text
    told = json.loads((rehearsed[2] / "clip" / "figures.json").read_text(encoding="utf-8"))
    assert f"| CLIP pair, held out first 5 | {told['held_out_first_5']:.3g} share |" in text
    assert (rehearsed[2] / "starter" / "samples.png").is_file()


def test_the_card_has_the_goals_beside_what_was_reached(rehearsed, tmp_path):
    folder = rehearsed[2]
    (tmp_path / "card").mkdir()
    record = evaluation.record
    figures = [
        record("3d render, seen, first 5", 0.75, "share", 20),
        record("flat illustration, seen, first 5", 1.0, "share", 60),
        record("3d render, seen before, first 5", 0.0, "share", 10),
        record("flat illustration, held-out pairs, first 1", 0.5, "share", 4),
        record("scenes, on the side that was asked for", 0.7, "share", 160),
    ]
    (tmp_path / "card" / "figures.json").write_text(json.dumps(figures))
    model = shutil.copytree(folder / "starter", tmp_path / "starter")
    made = corpus.load(folder / "corpus")
    warm_start.write_start(tmp_path / "unet", model)
    text = card.write_card(made, model, PROFILES["h200"], tmp_path).read_text(encoding="utf-8")
    for line in (
        "| seen pairs, in the first five, all judged styles | 80% | 94% | 80 |",
        "| held-out pairs, in the first five, all judged styles | 60% | not measured |  |",
        "| scenes, on the side that was asked for | 70% | 70% | 160 |",
        "| unet, from the weights of 'Easel starter' | 0 | 256 |",
    ):
        assert line in text
    small = card._licences(made, PROFILES["cpu"])  # draws a few subjects, and no clip art
    assert any("clip art | " in row and " | 0 | public domain |" in row for row in small)


def test_the_same_command_again_finds_everything_done(rehearsed, capsys):
    _, settings, folder = rehearsed
    weights = folder / "starter" / "unet" / "diffusion_pytorch_model.safetensors"
    before = load_file(weights)
    args = argparse.Namespace(stage="unet", rest=["--profile", "h200", "--rehearse"])
    threads = torch.get_num_threads()
    assert command_line.train(args, settings) == 0
    torch.set_num_threads(threads)
    assert "unet 1/4" not in capsys.readouterr().out
    after = load_file(folder / "unet" / "unet" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(before[k], v.half()) for k, v in after.items())


def test_an_older_model_and_corpus_are_evaluated_and_say_that_nothing_was_held_out(
    rehearsed, tmp_path
):
    made = make_corpus(tmp_path / "corpus", size=64, old=True)
    config = EvaluationConfig(pictures=2, subjects=1, reconstructions=4, judge=JudgeConfig(steps=1))
    events = list(evaluate(made, rehearsed[2] / "starter", config, tmp_path / "card"))
    figures = json.loads((tmp_path / "card" / "figures.json").read_text(encoding="utf-8"))
    assert figures[0]["metric"].startswith("no held-out split (the corpus has none)")
    assert not any("held-out pairs" in r["metric"] for r in figures)
    assert events[0] == Notice(figures[0]["metric"])
    assert (events[1].stage, events[1].step) == ("features", 0)  # told before anything is computed
    drawn = [e for e in events if isinstance(e, StageProgress) and e.stage == "pictures"]
    assert (drawn[-1].step, drawn[-1].seconds_left) == (drawn[-1].steps, 0)


def test_what_an_earlier_training_was_shown_is_not_called_held_out(rehearsed, tmp_path):
    made = corpus.load(rehearsed[2] / "corpus")
    model = Examined.read(rehearsed[2] / "starter")
    again = replace(model, shown_before=frozenset({"3d render"}))
    names = {(g.style, g.part) for g in groups_of(made, again, EvaluationConfig())}
    assert ("3d render", "seen before") in names
    assert not {("3d render", "held-out pairs"), ("3d render", "held-out subjects")} & names
    assert ("flat illustration", "held-out pairs") in names
    assert model.notes(made) == []
    assert again.notes(made) == [
        "seen before: an earlier training was shown every pair in 3d render"
    ]
    config = EvaluationConfig(reconstructions=4)
    figures = reconstructions(made, again, load_network(), config)
    assert figures[0]["metric"] == "autoencoder, pictures seen before, PSNR"
    about = json.loads((model.folder / "easel.json").read_text(encoding="utf-8"))
    shutil.copy2(model.folder / "subjects.txt", tmp_path)
    (tmp_path / "easel.json").write_text(json.dumps(about | {"shown_before": ["3d render"]}))
    assert Examined.read(tmp_path).shown_before == {"3d render"}
