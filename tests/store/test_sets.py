"""Sets of panels by their names, for the gallery's filter."""

from __future__ import annotations

from PIL import Image

from studio.core.request import GenerationRequest
from studio.store.database import Database
from studio.store.jobs import JobStore
from studio.store.pictures import PictureStore
from studio.store.sets import PictureSet, named_sets


def draw(database: Database, store: PictureStore, set_id: str, name: str, panels: int):
    request = GenerationRequest(prompt="an apple")
    image = Image.new("RGB", (request.width, request.height))
    made = []
    for panel in range(1, panels + 1):
        label = f"{name}, panel {panel} of {panels}"
        job = JobStore(database).submit(
            request, key=f"{set_id}{panel}", label=label, set_id=set_id, panel=panel
        )
        made.append(store.save(image, request, job_id=job.id, index=0, seconds=1.0))
    return made


def test_sets_are_listed_by_name_the_newest_first(database: Database, store: PictureStore):
    draw(database, store, "b", "Harbour, night", 2)
    draw(database, store, "a", "Roof", 11)
    image, request = Image.new("RGB", (128, 128)), GenerationRequest()
    store.save(image, request, job_id="alone", index=0, seconds=1.0)
    assert named_sets(database.engine) == [
        PictureSet("a", "Roof", 11),
        PictureSet("b", "Harbour, night", 2),
    ]


def test_a_set_without_pictures_outside_the_bin_is_not_offered(
    database: Database, store: PictureStore
):
    first, second = draw(database, store, "a", "Roof", 2)
    store.delete(first.id)
    assert named_sets(database.engine) == [PictureSet("a", "Roof", 1)]
    store.delete(second.id)
    assert named_sets(database.engine) == []
