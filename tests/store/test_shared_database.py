"""Several studios on one PostgreSQL: one schema, many raters, pictures that reach everybody."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from PIL import Image
from sqlalchemy import text, update

from studio.core.campaign import CampaignPicture, CampaignPlan, PairDraft
from studio.core.errors import NewerDatabaseError, NotFoundError, StorageError
from studio.core.request import GenerationRequest
from studio.core.settings import Settings
from studio.store.database import Databases, open_database, open_databases
from studio.store.jobs import JobStore
from studio.store.pictures import PictureStore
from studio.store.tables import METADATA, SHARED_PICTURES
from tests.postgres_server import PostgresServer
from tests.store.voting import Voting, open_voting, png, sha, vote


class House:
    """One studio: its folder, its gallery, and the database that it shares."""

    def __init__(self, folder: Path, url: str) -> None:
        settings = Settings(data_dir=folder, database_url=url)
        self.databases: Databases = open_databases(settings)
        self.gallery = PictureStore(self.databases.own, folder)
        self.voting: Voting = open_voting(
            self.databases.shared, folder, own=self.databases.own, share=True
        )

    def draw(self, seed: int) -> str:
        """Draw a picture into this studio's gallery; returns the hash of its file."""
        image = Image.effect_noise((48, 48), 80).convert("RGB")
        request = GenerationRequest(prompt="a storm", seed=seed)
        return self.gallery.save(image, request, job_id="j", index=0, seconds=1).sha256


@pytest.fixture
def url(postgres: PostgresServer) -> Iterator[str]:
    url = postgres.new_database()
    yield url
    postgres.drop(url)


@pytest.fixture
def houses(url: str, tmp_path: Path) -> Iterator[tuple[House, House]]:
    two = House(tmp_path / "one", url), House(tmp_path / "two", url)
    yield two
    for house in two:
        house.databases.close()


def test_a_campaigns_pictures_reach_the_studio_that_did_not_draw_them(houses):
    one, two = houses
    drawn = [one.draw(seed) for seed in (1, 2)]
    campaign = one.voting.campaigns.create(CampaignPlan("storms", prompts=("a storm",)))
    pictures = [CampaignPicture(sha256, "a storm", seed=n) for n, sha256 in enumerate(drawn)]
    one.voting.campaigns.add_pictures(campaign.id, pictures)
    two.voting.campaigns.draw_ahead(campaign.id, [PairDraft("Bob", "a storm", *drawn)])

    [pair] = two.voting.campaigns.waiting(campaign.id, "Bob")
    for sha256 in (pair.left, pair.right):
        picture = one.gallery.find(sha256)
        assert two.voting.pictures.has(sha256)
        assert two.voting.pictures.content(sha256) == one.gallery.file(picture).read_bytes()
        assert two.voting.pictures.path(sha256).is_file()  # fetched once, kept
    values = {"session_id": "", "response_ms": 1, "app_version": "", "created_at": 1.0}
    given = two.voting.votes.add(pair.vote("left", id="click", **values))
    assert list(one.voting.votes.votes(campaign.id)) == [given]


def test_imported_votes_and_pictures_reach_the_other_studio(houses, tmp_path: Path):
    one, two = houses
    left, right = one.voting.pictures.add(png(1)), one.voting.pictures.add(png(2))
    one.voting.votes.add(vote(left=left, right=right))
    one.voting.transfer.export_votes("pickapic", tmp_path / "out")
    assert two.voting.pictures.content(right) == png(2)
    assert two.voting.transfer.import_votes("pickapic", tmp_path / "out").known == 1


def test_a_picture_of_many_parts_arrives_whole(houses, tmp_path: Path):
    one, two = houses
    path = tmp_path / "large.png"
    Image.effect_noise((1500, 1500), 90).save(path)
    content = path.read_bytes()
    assert len(content) > 2 * 2**20
    assert two.voting.pictures.content(one.voting.pictures.add(content)) == content


def test_a_picture_that_was_changed_on_the_server_is_not_shown(houses):
    one, two = houses
    sha256 = one.voting.pictures.add(png(1))
    with one.databases.shared.writer.begin() as connection:
        connection.execute(update(SHARED_PICTURES).values(content=b"something else"))
    with pytest.raises(NotFoundError):
        two.voting.pictures.content(sha256)
    assert not two.voting.pictures.path(sha256).exists()


def test_gallery_queue_and_form_stay_each_studios_own(houses):
    one, two = houses
    one.draw(1)
    job = JobStore(one.databases.own).submit(GenerationRequest(), key="k")
    JobStore(one.databases.own).mark(job.id, "running")
    assert two.gallery.page() == []
    assert JobStore(two.databases.own).interrupt_running() == 0
    assert JobStore(one.databases.own).get(job.id).state == "running"


def test_a_picture_in_the_bin_is_gone_here_and_stays_there(houses):
    one, two = houses
    sha256 = one.draw(1)
    one.voting.pictures.share([sha256])
    one.gallery.delete(one.gallery.find(sha256).id)
    with pytest.raises(NotFoundError):
        one.voting.pictures.content(sha256)
    assert two.voting.pictures.has(sha256)


def test_twenty_raters_of_two_studios_at_once_lose_no_vote(houses):
    campaign = houses[0].voting.campaign(pictures=0)
    names, failures = [f"rater {n}" for n in range(20)], []

    def rate(number: int) -> None:
        voting = houses[number % 2].voting
        try:
            voting.draw_ahead(campaign, 5, names[number])
            for click in range(5):
                [pair] = voting.campaigns.waiting(campaign.id, names[number])
                values = {"session_id": "", "response_ms": 1, "app_version": "", "created_at": 1.0}
                voting.votes.add(pair.vote("left", id=f"{number}/{click}", **values))
        except StorageError as error:
            failures.append(error)

    threads = [threading.Thread(target=rate, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    found = sorted(v.id for v in houses[1].voting.votes.votes())
    assert found == sorted(f"{n}/{c}" for n in range(20) for c in range(5))
    assert houses[0].voting.votes.tally().votes == 100


def test_four_studios_that_open_an_empty_database_at_once_make_one_schema(
    postgres: PostgresServer, tmp_path: Path
):
    url, failures = postgres.new_empty_database(), []

    def start(number: int) -> None:
        try:
            open_database(Settings(data_dir=tmp_path / str(number), database_url=url)).close()
        except StorageError as error:
            failures.append(error)

    threads = [threading.Thread(target=start, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    database = open_database(Settings(data_dir=tmp_path / "x", database_url=url))
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, METADATA) == []
        triggers = connection.execute(
            text("SELECT tgname FROM pg_trigger WHERE NOT tgisinternal ORDER BY tgname")
        )
        expected = [
            f"{t}_refuse_{v}" for t in ("undos", "votes") for v in ("delete", "truncate", "update")
        ]
        assert list(triggers.scalars()) == expected
    database.close()
    postgres.drop(url)


def test_a_database_of_a_newer_easel_is_refused_unchanged(url: str, settings: Settings):
    there = replace(settings, database_url=url)
    database = open_database(there)
    with database.writer.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9998'"))
    database.close()
    with pytest.raises(NewerDatabaseError, match="made by a newer Easel"):
        open_databases(there)


def test_a_server_that_does_not_answer_is_a_sentence_without_its_password(settings: Settings):
    silent = "postgresql+psycopg://easel:hush@127.0.0.1:1/lab"
    with pytest.raises(StorageError, match=r"lab.*[.]$") as refusal:
        open_databases(replace(settings, database_url=silent))
    assert "hush" not in str(refusal.value)


def test_a_wrong_password_is_a_sentence_without_it(url: str, settings: Settings):
    wrong = url.replace("easel-tests", "hush")
    with pytest.raises(StorageError, match="password authentication failed") as refusal:
        open_databases(replace(settings, database_url=wrong))
    assert "hush" not in str(refusal.value)


def test_a_connection_that_the_server_ended_costs_no_vote(houses, url: str):
    one, two = houses
    one.voting.votes.add(vote(id="before"))
    with two.databases.shared.writer.begin() as connection:
        connection.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE pid <> pg_backend_pid() AND datname = current_database()"
            )
        )
    one.voting.votes.add(vote(id="after"))
    assert [v.id for v in one.voting.votes.votes()] == ["before", "after"]


def test_a_lone_artists_database_holds_no_picture_bytes(settings: Settings):
    databases = open_databases(settings)
    voting = open_voting(databases.shared, settings.data_dir)
    voting.pictures.add(png(1))
    with databases.shared.engine.connect() as connection:
        assert connection.execute(SHARED_PICTURES.select()).all() == []
    assert databases.shared is databases.own
    assert not voting.pictures.has(sha(1))
    databases.close()
