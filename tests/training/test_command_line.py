"""`launch.py train STAGE`: every ending is an exit status and a sentence."""

from __future__ import annotations

import argparse
import os
import signal
import threading

import numpy as np
import pytest
import torch

import launch
from studio.training import checkpoint
from studio.training.dataset import corpus, sources
from studio.training.stages import command_line
from tests.diffusion.tiny_model import build_tiny_model
from tests.training.synthetic import ellipse, make_corpus


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def train(settings, stage: str, *flags: str) -> int:
    return command_line.train(argparse.Namespace(stage=stage, rest=list(flags)), settings)


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--colour", "red"], "unrecognized arguments: --colour red"),
        (["--step", "5"], "unrecognized arguments: --step 5"),
        (["--steps", "0"], "0 is not a number from 1 on"),
        (["--steps", "many"], "invalid"),
        (["--batch-size", "-1"], "--batch-size"),
        (["--learning-rate", "0"], "0 is not between 0 and 1"),
        (["--sampler", "Magic"], "invalid choice: 'Magic'"),
        (["--budget", "soon"], "soon is not a time such as 90s, 25m or 8h"),
        (["--budget", "0m"], "0m is not a time"),
        (["--profile", "abacus"], "invalid choice: 'abacus'"),
        (["--prediction", "fate"], "invalid choice: 'fate'"),
        (["--adversarial", "0"], "0 is not above 0 and at most 10"),
        (["--latent-noise", "1.5"], "1.5 is not from 0 to 1"),
        (["--drawn-share", "-1"], "-1 is not from 0 to 1"),
    ],
)
def test_a_flag_that_is_none_ends_with_2(settings, capsys, flags, reason):
    with pytest.raises(SystemExit) as ending:
        train(settings, "unet", *flags)
    assert ending.value.code == 2
    assert reason in capsys.readouterr().err
    assert not settings.training_dir.exists()


@pytest.mark.parametrize("stage", ["autoencoder", "clip", "unet", "starter", "judge"])
def test_without_the_corpus_each_stage_ends_with_1_and_a_sentence(settings, capsys, stage):
    assert train(settings, stage) == 1
    output = capsys.readouterr()
    assert output.err == "There is no corpus yet. Run `python launch.py train corpus` first.\n"
    assert output.out == ""


@pytest.mark.parametrize(
    ("stage", "sentence"),
    [
        ("unet", "The U-Net needs the autoencoder stage first. Run `python launch.py train auto"),
        ("starter", "The unet is not trained yet; run its stage first."),
    ],
)
def test_a_stage_without_the_one_before_ends_with_1(settings, capsys, stage, sentence):
    make_corpus(settings.training_dir / "corpus", size=16)
    assert train(settings, stage) == 1
    assert capsys.readouterr().err.startswith(sentence)


def test_a_decoder_is_trained_alone_beside_the_autoencoder(settings, tmp_path, capsys):
    make_corpus(settings.training_dir / "corpus", size=64)
    few = ("--decoder-only", "--adversarial", "0.8", "--steps", "1", "--batch-size", "2")
    assert train(settings, "autoencoder", *few) == 1
    assert "Say with `--from DIR` in which model's folder" in capsys.readouterr().err
    model = build_tiny_model(tmp_path / "tiny")
    few += ("--latent-noise", "0.3", "--drawn-share", "0")
    assert train(settings, "autoencoder", *few, "--from", str(model)) == 0
    assert "critic" in capsys.readouterr().out
    assert (settings.training_dir / "decoder" / "vae" / "config.json").is_file()
    assert not (settings.training_dir / "autoencoder").exists()
    state = checkpoint.latest(settings.training_dir / "decoder").state
    used = state["made_with"]["settings"]
    assert (used["latent_noise"], used["drawn_share"]) == (0.3, 0)


def test_a_full_disk_ends_with_1_and_a_sentence(settings, capsys):
    make_corpus(settings.training_dir / "corpus", size=64)
    stage = settings.training_dir / "autoencoder"
    stage.mkdir()
    (stage / "log.jsonl").symlink_to("/dev/full")
    assert train(settings, "autoencoder", "--steps", "1", "--batch-size", "2") == 1
    said = capsys.readouterr().err
    assert said.startswith("The log of the training could not be written (No space left on device)")
    assert said.endswith("run the same command again; it goes on from its last checkpoint.\n")


def test_a_full_disk_under_the_corpus_ends_with_1_and_keeps_the_corpus_before(settings, capsys):
    folder = settings.training_dir / "corpus"
    before = make_corpus(folder, size=16)
    svg = sources._svg(ellipse(0), 16, 16).encode()
    original = sources.Original("cat", "flat illustration", (), "MIT", "", svg)
    origin = corpus._origin(corpus.PACKAGES)
    sources.write_originals(folder / "originals.zip", iter([original]), origin)
    (folder / "pictures.npy.tmp").symlink_to("/dev/full")
    assert train(settings, "corpus") == 1
    assert capsys.readouterr().err == (
        "The disk is full. Free some space and run the same command again.\n"
    )
    assert np.array_equal(corpus.load(folder).pictures, before.pictures)
    assert train(settings, "corpus") == 0
    assert [entry.subject for entry in corpus.load(folder).entries] == ["cat"]


def test_a_stage_stopped_with_ctrl_c_ends_with_130_and_goes_on_from_there(settings, capsys):
    make_corpus(settings.training_dir / "corpus", size=64)
    stage = settings.training_dir / "autoencoder"
    ended = threading.Event()

    def press_ctrl_c() -> None:
        log = stage / "log.jsonl"
        while not (log.exists() and log.stat().st_size) and not ended.wait(0.01):
            pass
        if not ended.is_set():
            os.kill(os.getpid(), signal.SIGINT)

    artist = threading.Thread(target=press_ctrl_c)
    artist.start()
    try:
        assert train(settings, "autoencoder", "--steps", "2000", "--batch-size", "1") == 130
    finally:
        ended.set()
        artist.join()
    output = capsys.readouterr()
    assert output.out.startswith("autoencoder 10/2000  ")
    assert output.err == "Stopped. The same command goes on from the last checkpoint.\n"


def test_the_launcher_offers_every_stage_and_no_other():
    for stage in (*command_line.STAGES, "all"):
        args = launch.parse(["train", stage, "--steps", "3"])
        assert (args.stage, args.rest) == (stage, ["--steps", "3"])
    assert set(command_line.RUN) == set(command_line.STAGES)
    with pytest.raises(SystemExit):
        launch.parse(["train", "everything"])


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("25m", 1500), ("1.5h", 5400)]
)
def test_a_budget_is_read_in_seconds_minutes_and_hours(text, seconds):
    assert command_line._seconds(text) == seconds


def test_the_report_tells_counts_and_licences_and_draws_the_sheet(settings, capsys):
    make_corpus(settings.training_dir / "corpus", size=32)
    assert train(settings, "corpus", "--report") == 0
    said = capsys.readouterr().out
    assert "pictures of 32 x 32 pixels, 4 subjects; 4 of the 252" in said
    assert "pencil sketch" in said
    assert "MIT" in said
    assert (settings.training_dir / "corpus" / "samples.png").is_file()


def test_the_report_of_a_corpus_that_is_not_there_is_a_sentence(settings, capsys):
    assert train(settings, "corpus", "--report") == 1
    assert "Run `python launch.py train corpus` first." in capsys.readouterr().err


def test_switches_that_do_not_go_together_are_a_sentence(settings, capsys):
    make_corpus(settings.training_dir / "corpus", size=32)
    assert train(settings, "unet", "--zero-terminal-snr", "--prediction", "epsilon") == 1
    assert "use zero-terminal SNR with v-prediction" in capsys.readouterr().err


def test_compiling_is_for_cuda_and_a_cpu_says_that_it_does_not(settings, capsys):
    make_corpus(settings.training_dir / "corpus", size=32)
    assert train(settings, "corpus", "--report", "--compile") == 0
    said = capsys.readouterr().out
    told = "--compile would make this device slower and is left out.\n"
    assert said.startswith(told) != torch.cuda.is_available()


def test_another_profile_has_a_folder_of_its_own(settings, capsys):
    make_corpus(settings.training_dir / "corpus", size=32)
    assert train(settings, "unet", "--profile", "h200") == 1
    assert "There is no corpus yet" in capsys.readouterr().err
