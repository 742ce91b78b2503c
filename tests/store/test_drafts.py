"""What is painted is kept whole, the last good one whatever comes."""

from __future__ import annotations

import pytest
from PIL import Image

from studio.core.errors import NotFoundError, StorageError
from studio.core.settings import Settings
from studio.store.drafts import DraftStore
from tests.store.test_files import encoded

STROKES = encoded(Image.new("RGBA", (24, 16), (255, 0, 0, 120)), "PNG")


@pytest.fixture
def drafts(settings: Settings) -> DraftStore:
    return DraftStore(settings.data_dir)


def test_a_draft_comes_back_byte_for_byte_and_is_replaced_whole(drafts: DraftStore):
    drafts.save("inpaint-mask", STROKES + b"")
    other = encoded(Image.new("L", (1536, 1536), 7), "PNG")
    drafts.save("inpaint-strokes", other)
    assert (drafts.load("inpaint-mask"), drafts.load("inpaint-strokes")) == (STROKES, other)
    drafts.save("inpaint-mask", other)
    assert drafts.load("inpaint-mask") == other


@pytest.mark.parametrize(
    "content", [b"", b"strokes", STROKES[:60], encoded(Image.new("RGB", (8, 8)), "JPEG")]
)
def test_what_is_no_whole_png_leaves_the_last_draft_as_it_was(content: bytes, drafts: DraftStore):
    drafts.save("mask", STROKES)
    with pytest.raises(StorageError):
        drafts.save("mask", content)
    assert drafts.load("mask") == STROKES


def test_a_draft_that_was_forgotten_is_a_sentence(drafts: DraftStore):
    drafts.save("mask", STROKES)
    drafts.delete("mask")
    drafts.delete("mask")
    with pytest.raises(NotFoundError, match="no draft 'mask'"):
        drafts.load("mask")


@pytest.mark.parametrize("name", ["", "../form", "a/b", "A", "a" * 101, "a.png", "-a", "ä"])
def test_a_name_that_is_none_reaches_no_file(name: str, drafts: DraftStore, settings: Settings):
    with pytest.raises(NotFoundError):
        drafts.save(name, STROKES)
    with pytest.raises(NotFoundError):
        drafts.load(name)
    assert not list(settings.data_dir.rglob("*.png"))


def test_drafts_name_the_source_that_they_were_painted_on(drafts: DraftStore):
    drafts.save(f"mask-{'0a' * 32}", STROKES)
    drafts.save("mask", STROKES)
    assert drafts.named_sources() == {"0a" * 32}
