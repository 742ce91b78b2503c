"""Files and rows find together again at start-up."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from PIL import Image
from sqlalchemy import delete

from studio.core.picture import Picture
from studio.core.request import GenerationRequest
from studio.core.settings import Settings
from studio.store.database import Database
from studio.store.pictures import PictureStore
from studio.store.reconcile import Reconciliation
from studio.store.tables import PICTURES, PROMPT_WORDS
from studio.store.used_sources import used_sources

REQUEST = GenerationRequest(prompt='猫, "apple": one\ntwo', seed=3, count=2)


def save(store: PictureStore, index: int = 0):
    image = Image.new("RGB", (128, 128), (index, 9, 9))
    return store.save(image, REQUEST, job_id="job", index=index, seconds=1.25, parent_id=7)


def forget_rows(database: Database) -> None:
    with database.writer.begin() as connection:
        connection.execute(delete(PICTURES))
        connection.execute(delete(PROMPT_WORDS))


def test_an_orphan_is_adopted_with_everything_its_row_had(database: Database, store: PictureStore):
    pictures = [save(store, 0), save(store, 1)]
    forget_rows(database)
    assert store.reconcile() == Reconciliation(adopted=2)
    adopted = store.page()[::-1]
    assert [vars(p) | {"id": 0} for p in adopted] == [vars(p) | {"id": 0} for p in pictures]
    assert [p.index for p in store.page(search="apple")] == [1, 0]


def test_a_second_look_finds_nothing_to_do(store: PictureStore):
    save(store)
    assert store.reconcile() == store.reconcile() == Reconciliation()


def test_a_row_whose_file_vanished_is_hidden_and_comes_back_with_it(
    store: PictureStore, tmp_path: Path
):
    picture = store.star(save(store).id, True)
    file = store.file(picture)
    file.rename(tmp_path / "aside.png")
    assert store.reconcile() == Reconciliation(missing=1)
    assert store.page() == store.page(search="apple") == store.page(starred=True) == []
    assert store.count(search="apple") == 0
    assert store.get(picture.id) == picture
    (tmp_path / "aside.png").rename(file)
    assert store.reconcile() == Reconciliation(found_again=1)
    assert store.page() == store.page(search="apple", starred=True) == [picture]


def test_a_lost_folder_of_a_whole_day_is_noticed(store: PictureStore, clock):
    first = save(store)
    clock.now += 86400
    second = save(store, 1)
    store.file(first).unlink()
    (store.file(second).parent.parent / first.path.split("/")[1]).rmdir()
    assert store.reconcile() == Reconciliation(missing=1)
    assert store.page() == [second]


def test_the_bin_stays_the_bin_when_its_file_is_lost(store: PictureStore):
    picture = store.delete(save(store).id)
    store.file(picture).unlink()
    assert store.reconcile() == Reconciliation()
    assert store.page(deleted=True) == [picture]
    assert store.purge(older_than=-1) == 1


def test_foreign_broken_and_linked_files_are_left_alone(
    store: PictureStore, settings: Settings, tmp_path: Path
):
    folder = settings.pictures_dir / "2024-01-01"
    folder.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(folder / "holiday.png")
    whole = store.file(save(store)).read_bytes()
    (folder / "torn.png").write_bytes(whole[: len(whole) // 2])
    (folder / "letter.png").write_text("not a picture", encoding="utf-8")
    (tmp_path / "outside.png").write_bytes(whole)
    (folder / "link.png").symlink_to(tmp_path / "outside.png")
    assert store.reconcile() == Reconciliation(foreign=3)
    assert store.count() == 1
    assert len(list(folder.iterdir())) == 4


def test_only_abandoned_temporary_files_are_swept(store: PictureStore, settings: Settings):
    folder = settings.pictures_dir / "2024-01-01"
    folder.mkdir(parents=True)
    dead = os.fork()
    if dead == 0:
        os._exit(0)
    os.waitpid(dead, 0)
    (folder / f"a.png.tmp-{dead}-00").write_bytes(b"half")
    (folder / f"b.png.tmp-{os.getpid()}-00").write_bytes(b"half, before a restart")
    os.utime(folder / f"b.png.tmp-{os.getpid()}-00", (1e9, 1e9))
    living = [f"c.png.tmp-{os.getpid()}-00", f"d.png.tmp-{os.getppid()}-00"]
    for name in living:
        (folder / name).write_bytes(b"somebody is writing this")
    assert store.reconcile() == Reconciliation(swept=2)
    assert {path.name for path in folder.iterdir()} == set(living)


def test_reconciling_beside_drawing_lists_every_picture_once(store: PictureStore):
    thread = threading.Thread(target=lambda: [save(store, index) for index in range(15)])
    thread.start()
    found = [store.reconcile() for _ in range(15)]
    thread.join()
    assert set(found) == {Reconciliation()}
    assert [p.index for p in store.page()] == list(range(14, -1, -1))


# Edits -----------------------------------------------------------------------------------------

EDIT = GenerationRequest(
    prompt="pear",
    width=100,
    height=75,
    source="0a" * 32,
    mask="0b" * 32,
    strength=0.4,
    extend=(0, 0, 8, 0),
    mask_blur=2.5,
)


def save_edit(store: PictureStore, parent_id: int, index: int = 0, job: str = "edit") -> Picture:
    image = Image.new("RGBA", (108, 75), (index, 7, 7, 100))
    return store.save(image, EDIT, job_id=job, index=index, seconds=2, parent_id=parent_id)


def test_an_orphaned_edit_is_adopted_with_its_request_and_its_parent(
    database: Database, store: PictureStore
):
    parent = save(store)
    edit = save_edit(store, parent.id)
    with database.writer.begin() as connection:
        connection.execute(delete(PICTURES).where(PICTURES.c.id == edit.id))
        connection.execute(delete(PROMPT_WORDS).where(PROMPT_WORDS.c.rowid == edit.id))
    assert store.reconcile() == Reconciliation(adopted=1)
    (adopted,) = store.children(parent.id)
    assert vars(adopted) | {"id": 0} == vars(edit) | {"id": 0}
    assert used_sources(database.engine) == {EDIT.source, EDIT.mask}


def test_parents_are_found_by_their_content_when_the_database_was_lost(
    database: Database, store: PictureStore
):
    for index in range(3):  # so that no number is what it was
        save(store, index)
    first = save(store, 4)
    second = save_edit(store, first.id, 0, "b")
    third = save_edit(store, second.id, 1, "a")  # comes before its parent in the folder
    gone = save_edit(store, third.id, 2, "c")
    orphan = save_edit(store, gone.id, 3, "d")
    store.file(gone).unlink()
    forget_rows(database)
    with database.writer.begin() as connection:
        connection.exec_driver_sql("UPDATE sqlite_sequence SET seq = 500 WHERE name = 'pictures'")
    assert store.reconcile().adopted == 7
    by_content = {picture.sha256: picture for picture in store.page()}
    parents = {p.sha256: by_content.get(p.sha256) for p in (first, second, third, orphan)}
    assert parents[second.sha256].parent_id == parents[first.sha256].id > 500
    assert parents[third.sha256].parent_id == parents[second.sha256].id
    assert parents[orphan.sha256].parent_id is None
    assert store.reconcile() == Reconciliation()
