"""The bin empties itself after thirty days, and the database is copied once a day."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from PIL import Image
from sqlalchemy import insert

from studio.core.errors import NotFoundError
from studio.core.request import GenerationRequest
from studio.core.settings import Settings
from studio.services import doctor
from studio.services.studio import open_studio
from studio.services.upkeep import BIN_KEEPS, DAY, Upkeep
from studio.store.backup import copies
from studio.store.database import Database, Databases, open_database
from studio.store.jobs import JobStore
from studio.store.pictures import PictureStore
from studio.store.tables import CAMPAIGN_PICTURES, CAMPAIGNS, VOTES


@dataclass
class Clock:
    """Time that passes only when a test says so; seconds since 1970."""

    now: float = 1_750_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class House:
    """A data folder with its upkeep and its own time."""

    database: Database
    pictures: PictureStore
    upkeep: Upkeep
    clock: Clock

    def binned(self, **more):
        picture = self.save(**more)
        return self.pictures.delete(picture.id)

    def save(self, colour: str = "red", **more):
        size = GenerationRequest(prompt="an apple")
        image = Image.new("RGB", (size.width, size.height), colour)
        return self.pictures.save(image, size, job_id="job", index=0, seconds=1.0, **more)

    def has(self, picture) -> bool:
        try:
            return self.pictures.file(self.pictures.get(picture.id)).is_file()
        except NotFoundError:
            return False


@pytest.fixture
def house(settings: Settings):
    clock = Clock()
    database = open_database(settings)
    pictures = PictureStore(database, settings.data_dir, clock)
    both = Databases(database, database)
    yield House(database, pictures, Upkeep(pictures, both, settings.backups_dir, clock), clock)
    database.close()


def test_a_picture_leaves_the_bin_after_thirty_days_and_not_before(house: House):
    gone, kept = house.binned(), house.save("blue")
    house.clock.now += BIN_KEEPS - 1
    house.upkeep.look()
    assert house.has(gone)
    house.clock.now += 1
    house.upkeep.look()
    assert (house.has(gone), house.has(kept)) == (False, True)


def vote(sha256: str, **sides: str) -> dict:
    return {
        "id": f"v-{sha256[:8]}", "created_at": 1.0, "session_id": "s", "rater": "ada",
        "campaign": "c", "pair_id": "", "attempt": 0, "prompt": "", "negative_prompt": "",
        "left": sha256, "right": "f" * 64, "choice": "left", "response_ms": 900,
        "selection": "random", "held_out": 0, "app_version": "1", **sides,
    }  # fmt: skip


def test_a_picture_that_a_vote_names_on_either_side_is_never_removed(house: House):
    left, right, free = (house.binned(colour=colour) for colour in ("red", "green", "blue"))
    with house.database.writer.begin() as connection:
        connection.execute(insert(VOTES).values(vote(left.sha256)))
        sides = {"left": "e" * 64, "right": right.sha256}
        connection.execute(insert(VOTES).values(vote(right.sha256, **sides)))
    house.clock.now += 10 * BIN_KEEPS
    house.upkeep.look()
    assert [house.has(picture) for picture in (left, right, free)] == [True, True, False]


def test_a_picture_that_a_vote_in_another_database_names_is_never_removed(
    house: House, settings: Settings, tmp_path: Path
):
    named, free = house.binned(), house.binned(colour="blue")
    shared = open_database(replace(settings, database_url=f"sqlite:///{tmp_path}/shared.sqlite3"))
    with shared.writer.begin() as connection:
        connection.execute(insert(VOTES).values(vote(named.sha256)))
    house.clock.now += BIN_KEEPS
    databases = Databases(house.database, shared)
    Upkeep(house.pictures, databases, settings.backups_dir, house.clock).look()
    shared.close()
    assert [house.has(picture) for picture in (named, free)] == [True, False]


def test_a_picture_of_a_campaign_is_never_removed(house: House):
    picture = house.binned()
    with house.database.writer.begin() as connection:
        connection.execute(
            insert(CAMPAIGNS).values(id="c", name="c", state="archived", plan="{}", created_at=1.0)
        )
        connection.execute(
            insert(CAMPAIGN_PICTURES).values(
                campaign="c",
                sha256=picture.sha256,
                prompt="",
                negative_prompt="",
                contestant="a",
                seed=1,
            )
        )
    house.clock.now += BIN_KEEPS
    house.upkeep.look()
    assert house.has(picture)


def test_a_picture_that_others_were_made_from_stays_as_long_as_they_do(house: House):
    parent = house.binned()
    child = house.binned(parent_id=parent.id)
    house.clock.now += BIN_KEEPS
    house.upkeep.look()
    assert (house.has(parent), house.has(child)) == (True, False)
    house.upkeep.look()
    assert not house.has(parent)


@pytest.mark.parametrize(("state", "stays"), [("queued", True), ("failed", True), ("done", False)])
def test_a_picture_that_a_job_may_still_be_drawn_from_stays(house: House, state: str, stays: bool):
    parent = house.binned()
    jobs = JobStore(house.database)
    job = jobs.submit(GenerationRequest(), key="k", parent_id=parent.id)
    if state != "queued":
        jobs.mark(job.id, "running")
        jobs.mark(job.id, state)
    house.clock.now += BIN_KEEPS
    house.upkeep.look()
    assert house.has(parent) == stays


def test_the_database_is_copied_once_a_day(house: House, settings: Settings):
    for hours in (0, 1, 22, 1, 23, 1):
        house.clock.now += hours * 3600
        house.upkeep.look()
    assert len(copies(settings.backups_dir, "daily")) == 3
    house.clock.now -= 300 * DAY  # the clock was wrong and is put right
    house.upkeep.look()
    assert len(copies(settings.backups_dir, "daily")) == 4


def test_what_fails_is_a_sentence_and_the_rest_is_done(house: House, settings: Settings):
    gone = house.binned()
    house.clock.now += BIN_KEEPS
    settings.backups_dir.write_text("a file of this name")
    house.upkeep.look()
    [problem] = house.upkeep.problems
    assert "back up the database to" in problem
    assert not house.has(gone)
    settings.backups_dir.unlink()
    house.upkeep.look()
    assert house.upkeep.problems == ()


def test_a_studio_that_has_begun_to_work_keeps_house(settings: Settings):
    studio = open_studio(settings)
    studio.upkeep.start()
    studio.close()  # waits for the round at hand
    assert len(copies(settings.backups_dir, "daily")) == 1
    assert studio.notes == ()


def test_the_way_back_that_doctor_names_leads_back(house: House, settings: Settings):
    starred = house.pictures.star(house.save().id, True)
    house.upkeep.look()
    newer = house.save("green")
    house.database.close()
    settings.database_path.write_bytes(b"SQLite format 3\0" + b"broken" * 400)
    found = {finding.subject: finding for finding in doctor.examine(settings)}
    assert found["Database"].wrong and "sound" in found["Backups"].sentence
    remedy = found["Database"].remedy
    source, target = (word.rstrip(";") for word in remedy.partition("copy ")[2].split(" to ")[:2])
    for path in settings.data_dir.glob("easel.sqlite3*"):  # 'move easel.sqlite3* out'
        path.unlink()
    shutil.copy(source, Path(target.split("; ")[0]))
    studio = open_studio(settings)
    try:
        assert [p.sha256 for p in studio.gallery.page()] == [newer.sha256, starred.sha256]
        assert [p.sha256 for p in studio.gallery.page(starred=True)] == [starred.sha256]
    finally:
        studio.close()
