"""The same stages alone and under `accelerate launch`: one loss curve, one set of weights."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from studio.core.settings import REPOSITORY
from tests.training.synthetic import make_corpus

PROGRAM = Path(__file__).with_name("stages_program.py")
WEIGHTS = (
    "autoencoder/vae/diffusion_pytorch_model.safetensors",
    "clip/text_with_projection/model.safetensors",
    "unet/unet/diffusion_pytorch_model.safetensors",
)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def train(folder: Path, launcher: list[str]) -> Path:
    make_corpus(folder / "corpus", size=128)
    path = os.pathsep.join([str(REPOSITORY), os.environ["PYTHONPATH"]])
    done = subprocess.run(
        [sys.executable, *launcher, str(PROGRAM), str(folder)],
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def curve(folder: Path, stage: str) -> list[dict[str, float]]:
    lines = (folder / stage / "log.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "time"} for line in lines]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    launcher = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launcher += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    launcher += ["--main_process_port", str(free_port())]
    alone = train(tmp_path_factory.mktemp("alone"), [])
    together = tmp_path_factory.mktemp("together")
    # Of byte pairs that are equally frequent any may come first, so both read with one tokenizer.
    shutil.copytree(alone / "clip" / "tokenizer", together / "clip" / "tokenizer")
    return alone, train(together, launcher)


def test_two_processes_took_part(runs):
    told = [{path.name for path in run.glob("told-*")} for run in runs]
    assert told == [{"told-0-of-1"}, {"told-0-of-2", "told-1-of-2"}]


@pytest.mark.parametrize("stage", ["autoencoder", "clip", "unet"])
def test_the_loss_curve_of_two_processes_is_that_of_one(runs, stage):
    alone, together = (curve(run, stage) for run in runs)
    # The U-Net reads captions in bf16, each run from its own CLIP pair: eight bits of rounding.
    near = 1e-3 if stage == "unet" else 1e-4
    assert [line["step"] for line in together] == [1, 2, 3, 4]
    for ours, theirs in zip(alone, together, strict=True):
        assert ours.keys() == theirs.keys() > {"loss", "gradient_norm"}
        for name, value in ours.items():
            assert theirs[name] == pytest.approx(value, rel=near, abs=1e-5), name


@pytest.mark.parametrize("file", WEIGHTS)
def test_the_weights_of_two_processes_are_those_of_one(runs, file):
    alone, together = (load_file(run / file) for run in runs)
    assert alone.keys() == together.keys()
    ours, theirs = (
        torch.cat([weights[name].flatten() for name in sorted(alone)]).float()
        for weights in (alone, together)
    )
    # Not value by value: Adam's first steps are of full size where a gradient is only rounding.
    assert (ours - theirs).norm() < 2e-3 * ours.norm()
