"""The pictures of votes, wherever they lie."""

from __future__ import annotations

from PIL import Image

from studio.core.request import GenerationRequest
from studio.store.database import Database
from studio.store.pictures import PictureStore
from tests.store.voting import Voting, other_file, png, sha


def test_sizes_are_those_of_the_pictures_that_can_be_shown(voting: Voting, database: Database):
    gallery = PictureStore(database, voting.data_dir)
    shown, binned, lost = (
        gallery.save(
            Image.new("RGB", (40 + number, 32)), GenerationRequest(seed=number), job_id="j",
            index=0, seconds=0.1,
        )
        for number in range(3)
    )  # fmt: skip
    gallery.delete(binned.id)
    gallery.file(lost).unlink()
    imported, jpeg = voting.pictures.add(png(1)), voting.pictures.add(other_file("JPEG"))
    asked = {shown.sha256, binned.sha256, lost.sha256, imported, jpeg, sha(1)}
    sizes = {shown.sha256: (40, 32), imported: (16, 16), jpeg: (24, 16)}
    assert voting.pictures.sizes(asked) == sizes

    voting.pictures.path(jpeg).unlink()  # what was known once is looked for again
    gallery.restore(binned.id)
    sizes = {shown.sha256: (40, 32), imported: (16, 16), binned.sha256: (41, 32)}
    assert voting.pictures.sizes(asked) == sizes
