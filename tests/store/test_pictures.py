"""One picture's life: saved, starred, rated, thrown away, brought back, gone."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from PIL import Image
from sqlalchemy import update

from studio.core.errors import InvalidRequestError, NotFoundError
from studio.core.request import GenerationRequest
from studio.store.database import Database, open_database
from studio.store.jobs import JobStore
from studio.store.metadata import read_metadata
from studio.store.pictures import PictureStore
from studio.store.tables import PICTURES

ON_BOTH_DATABASES = True

APPLE = GenerationRequest(prompt="red apple, flat", seed=40, count=4, model_hash="ab" * 32)


def save(store: PictureStore, request: GenerationRequest = APPLE, index: int = 0, **more):
    image = Image.linear_gradient("L").convert("RGB").resize((request.width, request.height))
    return store.save(image, request, **({"job_id": "j0b", "index": index, "seconds": 2.5} | more))


def test_a_saved_picture_comes_back_whole(store: PictureStore, clock):
    parent = save(store)
    picture = save(store, index=3, parent_id=parent.id)
    assert store.get(picture.id) == picture
    assert (picture.request, picture.index, picture.seed) == (APPLE, 3, 43)
    assert (picture.width, picture.height, picture.seconds) == (128, 128, 2.5)
    assert (picture.created_at, picture.parent_id, picture.job_id) == (clock.now, parent.id, "j0b")
    content = store.file(picture).read_bytes()
    assert hashlib.sha256(content).hexdigest() == picture.sha256
    with Image.open(store.file(picture)) as image:
        expected = Image.linear_gradient("L").convert("RGB").resize((128, 128))
        assert image.tobytes() == expected.tobytes()


def test_names_are_ours_and_hold_nothing_of_the_prompt(store: PictureStore):
    picture = save(store, APPLE.with_changes(prompt="../../etc/passwd <b>"), index=1)
    assert picture.path == "pictures/2025-06-15/j0b_1_41.png"


@pytest.mark.parametrize("job_id", ["", "../x", "a/b", "a b", "ä", "a.b", "a\0"])
def test_a_job_id_that_could_leave_the_folder_is_refused(store: PictureStore, job_id: str):
    with pytest.raises(ValueError, match="made by us"):
        save(store, job_id=job_id)


def test_the_same_picture_drawn_twice_gets_two_files(store: PictureStore):
    first, second = save(store), save(store)
    assert store.file(first) != store.file(second)
    assert store.file(first).is_file() and store.file(second).is_file()


def test_set_and_panel_come_from_the_job_and_order_the_set(database: Database, store: PictureStore):
    jobs = JobStore(database)
    for panel in (2, 1):
        request = APPLE.with_changes(prompt=f"panel {panel}", count=2)
        job = jobs.submit(request, key=str(panel), set_id="s1", panel=panel)
        for index in (1, 0):
            save(store, request, index=index, job_id=job.id)
    save(store)
    found = [(p.request.prompt, p.index) for p in store.set_pictures("s1")]
    assert found == [("panel 1", 0), ("panel 1", 1), ("panel 2", 0), ("panel 2", 1)]
    assert len(store.page(set_id="s1")) == 4
    record = read_metadata(store.file(store.set_pictures("s1")[0])).record
    assert (record.set_id, record.panel) == ("s1", 1)
    assert [job.picture_count for job in jobs.of_set("s1")] == [2, 2]


def test_star_and_rating_are_kept_and_taken_back(store: PictureStore):
    picture = save(store)
    assert store.star(picture.id, True).starred and store.get(picture.id).starred
    assert [store.rate(picture.id, stars).rating for stars in (1, 5)] == [1, 5]
    assert store.rate(picture.id, None).rating is None
    assert store.star(picture.id, False) == picture


@pytest.mark.parametrize("rating", [0, 6, -1])
def test_a_rating_beyond_five_stars_is_a_sentence(store: PictureStore, rating: int):
    picture = save(store)
    with pytest.raises(InvalidRequestError, match="1 to 5"):
        store.rate(picture.id, rating)


def test_undo_of_delete_brings_the_picture_back_as_it_was(store: PictureStore, clock):
    picture = store.rate(store.star(save(store).id, True).id, 4)
    thrown = store.delete(picture.id)
    assert thrown.deleted_at == clock.now
    assert (store.page(), store.page(search="apple")) == ([], [])
    assert store.page(deleted=True) == store.page(deleted=True, search="apple") == [thrown]
    assert store.restore(picture.id) == picture
    assert store.page() == store.page(search="apple", starred=True) == [picture]
    assert store.file(picture).is_file()


def test_purge_removes_only_what_lay_in_the_bin_long_enough(store: PictureStore, clock):
    kept, old, young = save(store), save(store, index=1), save(store, index=2)
    store.delete(old.id)
    clock.now += 100
    store.delete(young.id)
    files = {picture.id: store.file(picture) for picture in (kept, old, young)}
    thumbnail = store.thumbnail(old)
    assert store.purge(older_than=60) == 1
    assert [files[p.id].exists() for p in (kept, old, young)] == [True, False, True]
    assert not thumbnail.exists()
    with pytest.raises(NotFoundError):
        store.get(old.id)
    assert store.count(search="apple") == 1 and store.count(deleted=True, search="apple") == 1


def test_numbers_of_purged_pictures_are_not_given_again(store: PictureStore):
    first = save(store)
    store.delete(first.id)
    store.purge(older_than=0)
    assert save(store).id > first.id


@pytest.mark.parametrize("action", ["get", "delete", "restore"])
def test_an_unknown_picture_is_a_sentence(store: PictureStore, action: str):
    with pytest.raises(NotFoundError, match="no picture 77"):
        getattr(store, action)(77)


def test_a_thumbnail_is_a_small_webp_of_the_same_shape(store: PictureStore):
    picture = save(store, APPLE.with_changes(width=1024, height=576))
    with Image.open(store.thumbnail(picture)) as small:
        assert (small.format, small.size) == ("WEBP", (256, 144))


def test_a_lost_thumbnail_is_made_again(store: PictureStore):
    picture = save(store)
    before = store.thumbnail(picture).read_bytes()
    store.thumbnail(picture).unlink()
    assert store.thumbnail(picture).read_bytes() == before


def test_a_lost_file_is_a_sentence(store: PictureStore):
    picture = save(store)
    store.file(picture).unlink()
    store.thumbnail(picture).unlink()
    for path in (store.file, store.thumbnail):
        with pytest.raises(NotFoundError, match="not on disk"):
            path(picture)


@pytest.mark.parametrize("path", ["../outside.png", "pictures/../../outside.png", "/etc/hostname"])
def test_a_row_that_points_out_of_the_data_folder_opens_nothing(
    database: Database, store: PictureStore, settings, path: str
):
    (settings.data_dir.parent / "outside.png").write_bytes(b"secret")
    picture = save(store)
    with database.writer.begin() as connection:
        connection.execute(update(PICTURES).values(path=path))
    with pytest.raises(NotFoundError):
        store.file(store.get(picture.id))


def test_a_link_in_the_place_of_a_picture_is_not_followed(store: PictureStore, tmp_path: Path):
    picture = save(store)
    file = store.file(picture)
    file.rename(tmp_path / "elsewhere.png")
    file.symlink_to(tmp_path / "elsewhere.png")
    with pytest.raises(NotFoundError):
        store.file(picture)


def test_the_file_names_no_path_of_this_machine(store: PictureStore, settings):
    content = store.file(save(store)).read_bytes()
    assert str(settings.data_dir).encode() not in content
    assert str(Path.home()).encode() + b"/" not in content


def test_pictures_survive_a_restart(settings, clock):
    database = open_database(settings)
    picture = save(PictureStore(database, settings.data_dir, clock))
    database.close()
    database = open_database(settings)
    store = PictureStore(database, settings.data_dir, clock)
    assert store.page() == [picture]
    assert store.file(picture).is_file()
    database.close()
