"""The Teach tab's addresses, on a really started studio."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from tests.ui.served import Served


def png(side: int = 64) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (side, side), (200, 30, 40)).save(stream, "PNG")
    return stream.getvalue()


def draft(page: Served) -> dict:
    return page.ask("/easel/teach/state").json()["draft"]


def post(page: Served, path: str, body: bytes | dict):
    return page.ask(f"/easel/teach/{path}", "POST", body=body)


@pytest.fixture
def lesson(page: Served) -> str:
    """The draft, empty."""
    found = draft(page)
    for picture in found["pictures"]:
        post(page, f"{found['id']}/remove", {"picture": picture["id"]})
    return found["id"]


def test_pictures_come_in_as_they_are_and_go_out_small(page, lesson):
    answer = post(page, f"{lesson}/picture?title=cat.png", png(600))
    assert answer.status == 200
    picture = answer.json()["picture"]
    [kept] = draft(page)["pictures"]
    assert (kept["id"], kept["title"], kept["width"]) == (picture, "cat.png", 600)
    small = page.ask(f"/easel/teach/{lesson}/picture/{picture}.webp")
    assert small.headers["content-type"] == "image/webp"
    assert Image.open(io.BytesIO(small.body)).size == (256, 256)
    assert post(page, f"{lesson}/caption", {"picture": picture, "caption": "a cat"}).status == 200
    assert draft(page)["pictures"][0]["caption"] == "a cat"
    assert post(page, f"{lesson}/remove", {"picture": picture}).json() == {"pictures": 0}
    assert page.ask(f"/easel/teach/{lesson}/picture/{picture}.webp").status == 404


@pytest.mark.parametrize(
    ("path", "body", "status", "sentence"),
    [
        ("picture?title=a.png", b"no picture", 400, "a.png is not a PNG"),
        ("picture?title=a.png", b"", 400, "a.png is not a PNG"),
        ("start", {}, 400, "There are 0 pictures to learn from"),
        ("caption", {"picture": "../../x", "caption": ""}, 422, "malformed"),
        ("caption", {"picture": "0" * 12, "caption": "cat " * 6000}, 400, "at most 20,000"),
        (
            "describe",
            {"name": "x", "trigger": "", "model": "tiny", "minutes": -1},
            422,
            "malformed",
        ),
        ("describe", {"name": "x"}, 422, "malformed"),
    ],
)
def test_what_cannot_be_is_a_sentence_and_changes_nothing(
    page, lesson, path, body, status, sentence
):
    before = draft(page)
    answer = post(page, f"{lesson}/{path}", body)
    assert (answer.status, sentence in answer.json()["sentence"]) == (status, True)
    assert draft(page) == before


@pytest.mark.parametrize("name", ["x", "0" * 12, "..%2f..%2fx", "%2e%2e"])
def test_a_lesson_that_is_none_leads_nowhere(page, name):
    for path in ("start", "pause", "stop", "discard"):
        assert post(page, f"{name}/{path}", {}).status in (404, 405)
    assert page.ask(f"/easel/teach/{name}/sample/0.png").status == 404
    assert page.ask(f"/easel/teach/{name}/picture/{'0' * 12}.webp").status == 404


def test_the_state_is_sent_again_only_when_it_changed(page, lesson):
    state = page.ask("/easel/teach/state").json()
    assert page.ask(f"/easel/teach/state?known={state['version']}").status == 204
    form = {"name": "Red", "trigger": "zyx", "model": "tiny", "minutes": 2.5}
    assert post(page, f"{lesson}/describe", form).status == 200
    changed = page.ask(f"/easel/teach/state?known={state['version']}")
    assert {k: changed.json()["draft"][k] for k in form} == form


def test_another_sites_page_cannot_teach(page, lesson):
    foreign = {"Origin": "http://evil.example"}
    answer = page.ask(f"/easel/teach/{lesson}/picture?title=a.png", "POST", foreign, png())
    assert answer.status == 403
    assert draft(page)["pictures"] == []
