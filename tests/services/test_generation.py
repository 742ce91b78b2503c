"""Drawing end to end: the real queue, store, worker and sampler, with a tiny model."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Event

import pytest
from PIL import Image

from studio.core.errors import (
    DiskFullError,
    EaselError,
    ModelError,
    NotFoundError,
)
from studio.core.request import MAX_SEED, GenerationRequest
from studio.core.settings import REPOSITORY, Settings
from studio.services.generation import check_disk
from studio.services.job_view import JobView
from studio.services.panels import MAX_PANELS, panel_requests
from studio.services.studio import Studio, open_studio

PATIENCE = 240.0  # seconds until a test that hangs fails; the first one imports torch


def wait_until(studio: Studio, job_id: str, reached: Callable[[JobView], bool]) -> JobView:
    """Follow a job's snapshots until one of them is as wanted."""
    view = studio.generation.view(job_id)
    while not reached(view):
        newer = studio.generation.wait(job_id, view.version, PATIENCE)
        assert newer.version > view.version, view
        assert reached(newer) or not newer.over, newer
        view = newer
    return view


def finish(studio: Studio, job_id: str) -> JobView:
    return wait_until(studio, job_id, lambda view: view.over)


def hold_worker(studio: Studio) -> Event:
    """Keep the worker busy until the returned event is set."""
    entered, let_go = Event(), Event()

    def busy():
        entered.set()
        assert let_go.wait(PATIENCE)
        return
        yield

    studio.worker.submit("busy", busy)
    assert entered.wait(PATIENCE)
    return let_go


def test_a_request_becomes_pictures_on_disk_with_their_recipe(
    studio: Studio, request_tiny: GenerationRequest
) -> None:
    job = studio.generation.submit(request_tiny.with_changes(count=2), key="k")
    view = finish(studio, job.id)
    assert (view.state, view.error, view.step, view.steps) == ("done", "", 3, 3)
    assert [picture.seed for picture in view.pictures] == [7, 8]
    entry = studio.models.entry("tiny")
    for picture in view.pictures:
        assert picture.request == request_tiny.with_changes(
            count=2, model_hash=studio.models.hash_of(entry)
        )
        with Image.open(studio.gallery.file(picture)) as image:
            assert image.size == (64, 64)
            assert "red apple" in image.text["parameters"]
    assert studio.gallery.page(job_id=job.id) == list(reversed(view.pictures))


def test_equal_requests_give_equal_pixels(studio: Studio, request_tiny: GenerationRequest) -> None:
    pixels = []
    for key in ("first", "second"):
        view = finish(studio, studio.generation.submit(request_tiny, key=key).id)
        with Image.open(studio.gallery.file(view.pictures[0])) as image:
            pixels.append(image.tobytes())
    assert pixels[0] == pixels[1]


def test_the_snapshots_show_steps_previews_and_growing_versions(
    studio: Studio, request_tiny: GenerationRequest
) -> None:
    seen: list[JobView] = []
    job = studio.generation.submit(request_tiny.with_changes(steps=20), key="k")
    studio.worker.listen(lambda job_id, _event: seen.append(studio.generation.view(job_id)))
    finish(studio, job.id)
    versions = [view.version for view in seen]
    assert versions == sorted(versions)
    steps = [view.step for view in seen]
    assert steps == sorted(steps)
    assert steps[-1] == 20
    previews = [view.preview for view in seen if view.preview]
    assert Image.open(io.BytesIO(previews[0])).format == "JPEG"
    assert seen[-1].preview is None
    assert all(view.seconds_left is None or view.seconds_left >= 0 for view in seen)


def test_the_same_key_is_the_same_job(studio: Studio, request_tiny: GenerationRequest) -> None:
    first = studio.generation.submit(request_tiny, key="double click")
    second = studio.generation.submit(request_tiny, key="double click")
    assert finish(studio, first.id).job.id == second.id
    third = studio.generation.submit(request_tiny, key="double click")
    assert third.id == first.id
    assert studio.gallery.count() == 1


def test_waiting_jobs_have_positions_and_can_be_moved(
    studio: Studio, request_tiny: GenerationRequest
) -> None:
    let_go = hold_worker(studio)
    a, b, c = (studio.generation.submit(request_tiny, key=key).id for key in "abc")
    assert [studio.generation.view(job).position for job in (a, b, c)] == [1, 2, 3]
    studio.generation.move(c, -2)
    assert [view.job.id for view in studio.generation.queue()] == [c, a, b]
    assert studio.status.queue() == "3 waiting"
    let_go.set()
    for job in (a, b, c):
        finish(studio, job)
    drawn = [picture.job_id for picture in reversed(studio.gallery.page())]
    assert drawn == [c, a, b]
    assert studio.generation.queue() == []
    assert studio.status.queue() == "Idle"


def test_cancel_ends_within_a_step_and_keeps_finished_pictures(
    studio: Studio, request_tiny: GenerationRequest
) -> None:
    long = request_tiny.with_changes(count=64, steps=20)
    job = studio.generation.submit(long, key="k")
    wait_until(studio, job.id, lambda view: len(view.pictures) >= 1)
    studio.generation.cancel(job.id)
    view = finish(studio, job.id)
    assert view.state == "cancelled"
    assert 1 <= len(view.pictures) < 64
    assert studio.gallery.count(job_id=job.id) == len(view.pictures)


def test_a_waiting_job_is_cancelled_at_once(
    studio: Studio, request_tiny: GenerationRequest
) -> None:
    let_go = hold_worker(studio)
    job = studio.generation.submit(request_tiny, key="k")
    studio.generation.cancel(job.id)
    assert studio.generation.view(job.id).state == "cancelled"
    assert studio.generation.queue() == []
    let_go.set()


def test_cancelling_what_is_over_changes_nothing(
    studio: Studio, request_tiny: GenerationRequest
) -> None:
    job = studio.generation.submit(request_tiny, key="k")
    done = finish(studio, job.id)
    studio.generation.cancel(job.id)
    assert studio.generation.view(job.id) == done
    with pytest.raises(NotFoundError):
        studio.generation.cancel("nobody")


def test_a_prompt_that_is_cut_off_says_so_in_a_notice(
    studio: Studio, request_tiny: GenerationRequest
) -> None:
    job = studio.generation.submit(request_tiny.with_changes(prompt="castle " * 90), key="k")
    assert "castle" in " ".join(finish(studio, job.id).notices)


def test_an_unknown_model_is_refused_before_anything_is_stored(
    studio: Studio, request_tiny: GenerationRequest
) -> None:
    with pytest.raises(ModelError, match="There is no model 'nothing'"):
        studio.generation.submit(request_tiny.with_changes(model="nothing"), key="k")
    assert studio.generation.latest() is None


def test_a_model_that_breaks_while_the_job_waits_fails_it_with_its_sentence(
    own_models: Settings, request_tiny: GenerationRequest
) -> None:
    studio = open_studio(own_models)
    let_go = hold_worker(studio)
    job = studio.generation.submit(request_tiny, key="k")
    (own_models.models_dir / "tiny" / "model_index.json").unlink()
    let_go.set()
    view = finish(studio, job.id)
    studio.close()
    assert view.state == "failed"
    assert "model_index.json" in view.error
    assert view.details == ""


def test_pictures_that_cannot_be_written_fail_the_job_with_a_sentence(
    tiny_settings: Settings, request_tiny: GenerationRequest
) -> None:
    studio = open_studio(tiny_settings)
    tiny_settings.pictures_dir.mkdir(exist_ok=True)
    tiny_settings.pictures_dir.rmdir()
    tiny_settings.pictures_dir.write_text("a file is in the way", encoding="utf-8")
    view = finish(studio, studio.generation.submit(request_tiny, key="k").id)
    studio.close()
    assert view.state == "failed"
    assert view.error.endswith(".")
    assert view.details == ""
    assert view.pictures == ()


def test_a_job_that_would_fill_the_disk_is_refused_with_numbers() -> None:
    request = GenerationRequest(width=1024, height=1024, count=10)
    check_disk(request, free=200_000_000, size=(request.width, request.height))
    with pytest.raises(DiskFullError, match="has 100 MB left and these pictures may need 42 MB"):
        check_disk(request, free=100_000_000, size=(request.width, request.height))


def test_the_latest_job_is_what_a_returning_page_shows(
    studio: Studio, request_tiny: GenerationRequest
) -> None:
    first = studio.generation.submit(request_tiny, key="first")
    finish(studio, first.id)
    latest = studio.generation.latest()
    assert latest is not None
    assert (latest.job.id, latest.state, len(latest.pictures)) == (first.id, "done", 1)
    let_go = hold_worker(studio)
    second = studio.generation.submit(request_tiny, key="second")
    studio.generation.submit(request_tiny, key="third")
    latest = studio.generation.latest()
    assert latest is not None
    assert (latest.job.id, latest.state) == (second.id, "queued")
    let_go.set()


def test_a_job_of_an_earlier_run_is_still_shown_with_its_pictures(
    tiny_settings: Settings, request_tiny: GenerationRequest
) -> None:
    earlier = open_studio(tiny_settings)
    job = earlier.generation.submit(request_tiny.with_changes(count=3), key="k")
    before = finish(earlier, job.id)
    earlier.close()
    later = open_studio(tiny_settings)
    after = later.generation.view(job.id)
    later.close()
    assert (after.state, after.pictures) == ("done", before.pictures)


def test_closing_interrupts_what_runs_and_the_queue_survives(
    tiny_settings: Settings, request_tiny: GenerationRequest
) -> None:
    studio = open_studio(tiny_settings)
    long = request_tiny.with_changes(count=64, steps=20)
    running = studio.generation.submit(long, key="running")
    waiting = studio.generation.submit(request_tiny, key="waiting")
    wait_until(studio, running.id, lambda view: view.step >= 1)
    studio.close()
    later = open_studio(tiny_settings)
    assert [view.job.id for view in later.generation.interrupted()] == [running.id]
    assert later.generation.view(waiting.id).state == "queued"
    later.generation.resume_queue()
    assert finish(later, waiting.id).state == "done"
    later.close()


MURDERED = """
import signal, sys
from pathlib import Path
from studio.core.request import GenerationRequest
from studio.core.settings import Settings
from studio.services.studio import open_studio

signal.alarm(240)  # a test that hangs must fail
data, models = Path(sys.argv[1]), Path(sys.argv[2])
studio = open_studio(Settings(data_dir=data, models_dir=models, device="cpu"))
request = GenerationRequest(
    prompt="cat", width=64, height=64, steps=10, count=16, seed=3, model="tiny"
)
job = studio.generation.submit(request, key="k")
waiting = studio.generation.submit(request.with_changes(count=1, steps=2), key="next")
version = 0
while True:
    view = studio.generation.wait(job.id, version, 60)
    version = view.version
    assert view.pictures or not view.over, view
    if view.pictures:
        print(job.id, waiting.id, flush=True)
        sys.stdin.read()
"""


def test_after_kill_9_the_job_is_interrupted_and_resubmitting_draws_only_the_rest(
    tiny_settings: Settings,
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", MURDERED, tiny_settings.data_dir, tiny_settings.models_dir],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    ) as process:
        assert process.stdout is not None
        job_id, waiting_id = process.stdout.readline().split()
        os.kill(process.pid, signal.SIGKILL)
    studio = open_studio(tiny_settings)
    assert studio.generation.view(job_id).state in ("interrupted", "done")
    if studio.generation.view(job_id).state == "done":
        pytest.fail("The job was over before it could be killed; give it more pictures.")
    kept = studio.generation.view(job_id).pictures
    assert len(kept) >= 1
    assert [view.job.id for view in studio.generation.interrupted()] == [job_id]
    assert studio.generation.resubmit(job_id).id == job_id
    assert studio.generation.interrupted() == []
    studio.warm_up()
    view = finish(studio, job_id)
    assert finish(studio, waiting_id).state == "done"
    studio.close()
    assert view.state == "done"
    assert view.pictures[: len(kept)] == kept
    assert [picture.seed for picture in view.pictures] == list(range(3, 19))


def test_an_interrupted_job_can_be_dismissed(
    tiny_settings: Settings, request_tiny: GenerationRequest
) -> None:
    studio = open_studio(tiny_settings)
    job = studio.generation.submit(request_tiny.with_changes(count=64, steps=20), key="k")
    wait_until(studio, job.id, lambda view: view.step >= 1)
    studio.close()
    later = open_studio(tiny_settings)
    later.generation.cancel(job.id)
    assert later.generation.interrupted() == []
    assert later.generation.view(job.id).state == "cancelled"
    later.close()


def test_a_seed_at_the_end_of_its_range_can_be_resubmitted(
    tiny_settings: Settings, request_tiny: GenerationRequest
) -> None:
    studio = open_studio(tiny_settings)
    request = request_tiny.with_changes(seed=MAX_SEED, count=64, steps=20)
    job = studio.generation.submit(request, key="k")
    wait_until(studio, job.id, lambda view: len(view.pictures) >= 1)
    studio.generation.cancel(job.id)
    kept = len(finish(studio, job.id).pictures)
    studio.generation.resubmit(job.id)
    wait_until(studio, job.id, lambda view: len(view.pictures) > kept)
    studio.close()


def test_panels_become_one_named_set_in_order(
    studio: Studio, request_tiny: GenerationRequest
) -> None:
    style = request_tiny.with_changes(prompt="{prompt}, pencil sketch")
    lines = ["red apple", "", "  blue castle  ", "cat"]
    panels = studio.generation.submit_panels(
        lines, style, seed_policy="increment", key="k", name="Opening"
    )
    again = studio.generation.submit_panels(
        lines, style, seed_policy="increment", key="k", name="Opening"
    )
    for job in panels.jobs:
        finish(studio, job.id)
    assert [job.id for job in again.jobs] == [job.id for job in panels.jobs]
    assert [job.label for job in panels.jobs] == [
        "Opening, panel 1 of 3",
        "Opening, panel 2 of 3",
        "Opening, panel 3 of 3",
    ]
    pictures = studio.gallery.panels(panels.id)
    assert [(picture.request.prompt, picture.seed) for picture in pictures] == [
        ("red apple, pencil sketch", 7),
        ("blue castle, pencil sketch", 8),
        ("cat, pencil sketch", 9),
    ]


def test_panels_of_several_pictures_share_no_seed_when_they_increment() -> None:
    request = GenerationRequest(prompt="ink", seed=10, count=3)
    seeds = [panel.seed for panel in panel_requests(["a", "b", "c"], request, "increment")]
    assert seeds == [10, 13, 16]


def test_panels_with_one_seed_put_the_line_before_the_style() -> None:
    panels = panel_requests(["a", "b"], GenerationRequest(prompt="ink", seed=10), "same")
    assert [(panel.prompt, panel.seed) for panel in panels] == [("a, ink", 10), ("b, ink", 10)]


@pytest.mark.parametrize("lines", [[], ["", "  "], ["a"] * (MAX_PANELS + 1), ["a", "b\0"]])
def test_lines_that_make_no_panels_are_refused_before_anything_is_queued(
    studio: Studio, request_tiny: GenerationRequest, lines: list[str]
) -> None:
    with pytest.raises(EaselError):
        studio.generation.submit_panels(lines, request_tiny, seed_policy="same", key="k")
    assert studio.generation.latest() is None


NO_TORCH = """
import json, sys
from pathlib import Path
from studio.core.request import GenerationRequest
from studio.core.settings import Settings
import studio.services.studio as services

heavy = ("torch", "diffusers", "transformers", "peft")
studio = services.open_studio(Settings(data_dir=Path(sys.argv[1]), models_dir=Path(sys.argv[2])))
studio.models.entries()
studio.models.hash_of(studio.models.entry("tiny"))
studio.status.device(), studio.status.queue(), studio.status.model()
studio.presets.all(), studio.gallery.page(), studio.form.load("page"), studio.generation.latest()
before = [name for name in heavy if name in sys.modules]
studio.warm_up()
studio.worker.submit("after the warm-up", lambda: iter(()))
studio.close()
print(json.dumps(before))
"""


def test_opening_the_studio_imports_no_torch(tiny_settings: Settings) -> None:
    done = subprocess.run(
        [sys.executable, "-c", NO_TORCH, tiny_settings.data_dir, tiny_settings.models_dir],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        check=True,
        timeout=PATIENCE,
    )
    assert json.loads(done.stdout) == []


def test_the_warm_up_loads_the_model_that_was_used_last(
    tiny_settings: Settings, request_tiny: GenerationRequest
) -> None:
    earlier = open_studio(tiny_settings)
    finish(earlier, earlier.generation.submit(request_tiny, key="k").id)
    earlier.close()
    later = open_studio(tiny_settings)
    ended = Event()
    later.worker.listen(lambda job_id, event: ended.set() if hasattr(event, "outcome") else None)
    assert later.status.model().phase == "idle"
    later.warm_up()
    assert ended.wait(PATIENCE)
    assert (later.status.model().phase, later.status.model().model) == ("ready", "tiny")
    assert later.status.device().startswith("CPU, ")
    later.close()


def test_two_studios_take_turns_on_the_device(
    tiny_settings: Settings, request_tiny: GenerationRequest, tmp_path: Path
) -> None:
    from studio.services.ownership import device_lock

    lock = device_lock(tiny_settings.data_dir)
    assert lock.acquire("train unet")
    studio = open_studio(tiny_settings)
    job = studio.generation.submit(request_tiny, key="k")
    assert studio.generation.view(job.id).state == "queued"
    lock.release()
    assert finish(studio, job.id).state == "done"
    studio.close()
    assert lock.acquire("generate")
    lock.release()
