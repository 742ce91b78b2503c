"""`generate` as a user meets it: a process with flags, two streams and an exit code."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import launch
from studio.core.request import GenerationRequest
from studio.core.settings import REPOSITORY, Settings
from studio.services import command_line
from studio.services.job_view import JobView
from studio.services.ownership import device_lock
from studio.services.studio import open_studio
from studio.store.jobs import Job

PATIENCE = 240.0  # seconds; importing torch takes long on a busy machine
COMMAND = (
    "import sys, launch\nargs = launch.parse(sys.argv[1:])\nsys.exit(launch.run_generate(args))\n"
)
SMALL = ("--model", "tiny", "--steps", "2")


FIELDS = ["path", "seed", "width", "height", "seconds", "sha256"]
SOME_JOB = Job(
    id="1", kind="draw", state="running", request=GenerationRequest(), position=1, submitted_at=0,
    started_at=0, finished_at=None, error="", picture_count=0, label="", set_id="",
)  # fmt: skip


class Screen(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


@dataclass(frozen=True)
class Run:
    code: int
    pictures: list[dict[str, Any]]
    said: str


def arguments(settings: Settings, *flags: str) -> list[str]:
    folders = ("--data-dir", str(settings.data_dir), "--models-dir", str(settings.models_dir))
    return [sys.executable, "-c", COMMAND, "generate", *folders, "--device", "cpu", *flags]


def python_path() -> str:
    return os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))


@pytest.fixture
def generate(capsys: pytest.CaptureFixture[str]) -> Callable[..., Run]:
    """The command inside this process, where torch is imported already."""

    def run(settings: Settings, *flags: str) -> Run:
        args = launch.parse(arguments(settings, *flags)[3:])
        capsys.readouterr()
        code = command_line.generate(args, settings)
        streams = capsys.readouterr()
        return Run(code, [json.loads(line) for line in streams.out.splitlines()], streams.err)

    return run


def test_two_pictures_are_two_lines_of_json_and_two_files(
    tiny_settings: Settings, tmp_path: Path
) -> None:
    flags = ("--prompt", "red apple", "--seed", "5", "--count", "2", "--output", "drawn")
    done = subprocess.run(
        arguments(tiny_settings, *SMALL, *flags),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": python_path()},
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [list(line) for line in lines] == [FIELDS, FIELDS]
    assert [(line["seed"], line["width"], line["height"]) for line in lines] == [
        (5, 64, 64),
        (6, 64, 64),
    ]
    files = sorted((tmp_path / "drawn").resolve().iterdir())
    assert sorted(Path(line["path"]) for line in lines) == files
    for line in lines:
        assert hashlib.sha256(Path(line["path"]).read_bytes()).hexdigest() == line["sha256"]
        with Image.open(line["path"]) as image:
            assert image.size == (64, 64)
            assert image.text["parameters"].startswith("red apple")
    studio = open_studio(tiny_settings)
    recorded = {picture.sha256 for picture in studio.gallery.page()}
    studio.close()
    assert recorded == {line["sha256"] for line in lines}


def test_without_output_the_path_is_the_store_s_own_file(
    tiny_settings: Settings, generate: Callable[..., Run]
) -> None:
    run = generate(tiny_settings, *SMALL, "--prompt", "")
    studio = open_studio(tiny_settings)
    (picture,) = studio.gallery.page()
    assert [line["path"] for line in run.pictures] == [str(studio.gallery.file(picture))]
    assert run.pictures[0]["seed"] == picture.seed
    studio.close()


def test_a_request_from_a_file_is_drawn_and_flags_win(
    tiny_settings: Settings, tmp_path: Path, generate: Callable[..., Run]
) -> None:
    request = GenerationRequest(prompt="castle", width=72, height=64, steps=9, seed=4, model="tiny")
    file = tmp_path / "request.json"
    file.write_text(request.to_json(), encoding="utf-8")
    run = generate(tiny_settings, "--json-request", str(file), "--seed", "11", "--steps", "2")
    assert run.code == 0
    studio = open_studio(tiny_settings)
    (picture,) = studio.gallery.page()
    model_hash = studio.models.hash_of(studio.models.entry("tiny"))
    studio.close()
    assert picture.request == request.with_changes(seed=11, steps=2, model_hash=model_hash)


@pytest.mark.parametrize(("flags", "sentence"), [
    (("--width", "100"), "A width of 100 is not a multiple of 8; try 96 or 104."),
    (("--steps", "0"), "0 steps cannot be drawn; choose 1 to 500 (20 is usual)."),
    (("--sampler", "Magic"), "There is no sampler 'Magic'."),
    (("--seed", "-2"), "A seed is a whole number from 0 to 4294967295."),
    (("--json-request", "/nowhere.json"), "The request '/nowhere.json' cannot be read"),
])  # fmt: skip
def test_a_bad_request_is_a_sentence_and_exit_code_2(
    tiny_settings: Settings,
    generate: Callable[..., Run],
    flags: tuple[str, ...],
    sentence: str,
) -> None:
    run = generate(tiny_settings, *SMALL, "--prompt", "cat", *flags)
    assert (run.code, run.pictures) == (2, [])
    assert run.said.startswith(sentence)
    assert run.said.count("\n") == 1


@pytest.mark.parametrize("content", [
    "{", "[]", '{"colour": 1}', '{"steps": "many"}', '{"model": 5}', '{"adapters": [1]}',
    "[" * 100_000, '{"width": 1e999}', '{"prompt": "\\u0000"}', '{"adapters": [{"name": 1}]}',
])  # fmt: skip
def test_a_bad_request_file_is_a_sentence_and_exit_code_2(
    tiny_settings: Settings, tmp_path: Path, generate: Callable[..., Run], content: str
) -> None:
    file = tmp_path / "request.json"
    file.write_text(content, encoding="utf-8")
    run = generate(tiny_settings, "--json-request", str(file))
    assert (run.code, run.pictures) == (2, [])
    assert run.said.strip().endswith(".")


def test_a_missing_model_is_a_sentence_and_a_wrong_request(
    tiny_settings: Settings, generate: Callable[..., Run]
) -> None:
    run = generate(tiny_settings, "--prompt", "cat", "--model", "nothing")
    assert (run.code, run.pictures) == (2, [])
    assert run.said.startswith("There is no model 'nothing'.")


def test_a_corrupt_model_is_a_sentence_and_exit_code_1(
    own_models: Settings, generate: Callable[..., Run]
) -> None:
    weights = own_models.models_dir / "tiny" / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    run = generate(own_models, *SMALL, "--prompt", "cat")
    assert (run.code, run.pictures) == (1, [])
    assert "damaged" in run.said


def test_an_output_that_cannot_be_written_is_a_sentence_and_nothing_is_drawn(
    tiny_settings: Settings, tmp_path: Path, generate: Callable[..., Run]
) -> None:
    (tmp_path / "file").write_text("not a folder", encoding="utf-8")
    run = generate(tiny_settings, *SMALL, "--prompt", "cat", "--output", str(tmp_path / "file"))
    assert (run.code, run.pictures) == (1, [])
    assert run.said.strip().endswith(".")
    studio = open_studio(tiny_settings)
    assert studio.generation.latest() is None
    studio.close()


def test_a_command_leaves_the_jobs_of_a_running_studio_alone(
    tiny_settings: Settings, generate: Callable[..., Run]
) -> None:
    lock = device_lock(tiny_settings.data_dir)
    assert lock.acquire("generate")
    studio = open_studio(tiny_settings)
    request = GenerationRequest(prompt="cat", width=64, height=64, steps=2, model="tiny")
    waiting = studio.generation.submit(request, key="k")
    run = generate(tiny_settings, *SMALL, "--prompt", "dog", "--seed", "1")
    assert (run.code, len(run.pictures)) == (0, 1)
    assert studio.generation.view(waiting.id).state == "queued"
    lock.release()
    view = studio.generation.view(waiting.id)
    while not view.over:
        view = studio.generation.wait(waiting.id, view.version, PATIENCE)
    studio.close()
    assert view.state == "done"


def test_progress_is_shown_at_a_terminal_only() -> None:
    job_view = JobView(job=SOME_JOB, state="running", step=3, steps=20, seconds_left=4.2)
    screen, file = Screen(), io.StringIO()
    command_line.show_progress(job_view, screen)
    command_line.show_progress(job_view, file)
    assert screen.getvalue() == "\r\x1b[Krunning: step 3 of 20, 4 s left"
    assert file.getvalue() == ""


def test_ctrl_c_keeps_and_reports_finished_pictures(tiny_settings: Settings) -> None:
    flags = ("--model", "tiny", "--steps", "40", "--prompt", "cat", "--seed", "1", "--count", "64")
    with subprocess.Popen(
        arguments(tiny_settings, *flags),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    ) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        rest, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, said
    assert said.endswith("Stopped; finished pictures are kept.\n")
    assert "Traceback" not in said
    reported = [json.loads(line)["sha256"] for line in (first + rest).splitlines()]
    studio = open_studio(tiny_settings)
    kept = [picture.sha256 for picture in reversed(studio.gallery.page())]
    latest = studio.generation.latest()
    studio.close()
    assert reported == kept
    assert 1 <= len(kept) < 64
    assert latest is not None
    assert latest.state == "cancelled"


# Edits -----------------------------------------------------------------------------------------


@pytest.fixture
def sketch(tmp_path: Path) -> Path:
    """A picture whose sides no model likes."""
    path = tmp_path / "sketch.png"
    Image.effect_noise((100, 75), 60).convert("RGB").save(path)
    return path


def only_picture(run: Run) -> Image.Image:
    assert run.code == 0, run.said
    with Image.open(run.pictures[0]["path"]) as image:
        image.load()
        return image


def test_a_picture_to_start_from_gives_the_result_its_size(
    tiny_settings: Settings, generate: Callable[..., Run], sketch: Path
) -> None:
    run = generate(tiny_settings, *SMALL, "--init-image", str(sketch), "--strength", "0.5")
    assert (run.pictures[0]["width"], run.pictures[0]["height"]) == (100, 75)
    with Image.open(sketch) as source:
        assert only_picture(run).tobytes() != source.tobytes()
        unchanged = generate(tiny_settings, *SMALL, "--init-image", str(sketch), "--strength", "0")
        assert only_picture(unchanged).tobytes() == source.tobytes()
    sized = generate(
        tiny_settings, *SMALL, "--init-image", str(sketch), "--width", "64", "--height", "80"
    )
    assert only_picture(sized).size == (64, 80)
    assert "Denoising strength: 0.75" in only_picture(sized).text["parameters"]


def test_a_picture_of_the_gallery_to_start_from_is_the_results_parent(
    tiny_settings: Settings, generate: Callable[..., Run], tmp_path: Path
) -> None:
    first = generate(tiny_settings, *SMALL, "--prompt", "red apple").pictures[0]
    copy = tmp_path / "taken-along.png"
    copy.write_bytes(Path(first["path"]).read_bytes())
    generate(tiny_settings, *SMALL, "--init-image", str(copy))
    with closing(open_studio(tiny_settings, owner=False)) as studio:
        edit, parent = studio.gallery.page()
        assert parent.sha256 == first["sha256"]
        assert edit.parent_id == parent.id


def test_a_mask_on_the_command_line_keeps_what_is_black(
    tiny_settings: Settings, generate: Callable[..., Run], sketch: Path, tmp_path: Path
) -> None:
    mask = Image.new("L", (100, 75), 0)
    mask.paste(255, (60, 40, 90, 70))
    mask.save(tmp_path / "mask.png")
    flags = ("--init-image", str(sketch), "--mask", str(tmp_path / "mask.png"), "--strength", "1")
    result = only_picture(generate(tiny_settings, *SMALL, *flags))
    with Image.open(sketch) as source:
        left = (0, 0, 40, 75)
        assert result.crop(left).tobytes() == source.crop(left).tobytes()
        assert result.crop((65, 45, 85, 65)).tobytes() != source.crop((65, 45, 85, 65)).tobytes()


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--init-image", "{folder}/poem.png"), "not a PNG, JPEG or WebP"),
        (("--init-image", "{folder}/nothing.png"), "nothing.png is not there"),
        (("--init-image", "{folder}/dot.png"), "is 1 x 1 pixels"),
        (("--init-image", "{folder}/wide.png"), "A width of 5000 is out of reach"),
        (("--init-image", "{folder}/sketch.png", "--mask", "{folder}/wide.png"), "5000 x 64"),
        (("--mask", "{folder}/sketch.png"), "--mask needs a picture"),
        (("--strength", "0.5"), "--strength needs a picture"),
        (("--init-image", "{folder}/sketch.png", "--strength", "2"), "Strength is 2"),
    ],
)
def test_a_picture_that_cannot_be_edited_is_a_sentence_and_exit_code_2(
    flags: tuple[str, ...],
    sentence: str,
    tiny_settings: Settings,
    generate: Callable[..., Run],
    sketch: Path,
) -> None:
    folder = sketch.parent
    (folder / "poem.png").write_text("a poem")
    Image.new("RGB", (1, 1)).save(folder / "dot.png")
    Image.new("RGB", (5000, 64)).save(folder / "wide.png")
    run = generate(tiny_settings, *SMALL, *(flag.format(folder=folder) for flag in flags))
    assert (run.code, run.pictures) == (2, [])
    assert sentence in run.said
    assert "Traceback" not in run.said
