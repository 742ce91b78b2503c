"""An evening of votes, in a real browser: keys, undo, zoom, two tabs, and a studio that is away."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from tests.browser.conftest import Complaints
from tests.ui.served import Served

Visit = Callable[[], Page]
PROMPTS = ("a red fox", "a lighthouse", "a bowl of soup", "an owl")
expect.set_options(timeout=60_000)


@pytest.fixture(scope="module")
def drawn_by(studio: Served) -> str:
    """The name of a campaign whose pictures the tiny model draws."""
    body = {
        "name": "Foxes and soup",
        "prompts": list(PROMPTS),
        "contestants": [{"model": "tiny"}],
        "pictures_per_prompt": 6,
        "steps": 1,
        "strategy": "random",
    }
    made = studio.ask("/easel/rate/owner/campaigns", "POST", body=body)
    assert made.status == 200, made.body
    return body["name"]


def campaign_named(studio: Served, name: str) -> dict:
    listed = studio.ask("/easel/rate/campaigns").json()["campaigns"]
    return next(campaign for campaign in listed if campaign["name"] == name)


def start_rating(page: Page, campaign: str, rater: str) -> None:
    page.get_by_role("tab", name="Rate").click()
    page.get_by_label("Who rates?").fill(rater)
    card = page.locator(".easel-campaign", has_text=campaign)
    card.get_by_role("button", name=re.compile("rating")).click()
    # The first pictures of a campaign wait for the model to be loaded.
    expect(page.locator(".easel-pair-frame img")).to_have_count(2, timeout=300_000)


def expect_refused_votes(complaints: Complaints) -> None:
    """Take the browser's own lines about votes that did not go through off the list."""
    assert any("/easel/rate/votes" in line for line in complaints.lines)
    complaints.lines = [line for line in complaints.lines if "/easel/rate/votes" not in line]


def press_when_shown(page: Page, key: str) -> None:
    """Answer the pair that stands there, and wait until another one does."""
    before = page.locator(".easel-pair-frame img").first.get_attribute("src")
    page.wait_for_function("document.querySelector('.easel-pair-frame img')?.complete")
    expect(page.locator("#easel-voting.settling")).to_have_count(0)
    page.keyboard.press(key)
    expect(page.locator(".easel-pair-frame img").first).not_to_have_attribute("src", before)


def test_keys_and_clicks_are_votes_that_stay(visit: Visit, studio: Served, drawn_by: str):
    page = visit()
    start_rating(page, drawn_by, "Ann")
    for key in ("ArrowLeft", "ArrowRight", "ArrowDown", "b", " "):
        press_when_shown(page, key)
    expect(page.locator(".easel-pair-numbers strong")).to_have_text("4 votes")  # a skip is none
    before = page.locator(".easel-pair-frame img").first.get_attribute("src")
    expect(page.locator("#easel-voting.settling")).to_have_count(0)
    page.locator(".easel-pair-frame").first.click()
    expect(page.locator(".easel-pair-frame img").first).not_to_have_attribute("src", before)
    expect(page.locator(".easel-pair-numbers")).to_contain_text("5 votes")
    expect(page.locator(".easel-pair-numbers")).to_contain_text("5 in a row")
    expect(page.locator(".easel-pair-saved")).to_have_text("saved")
    page.keyboard.press("Escape")
    expect(page.locator("#easel-voting")).to_have_count(0)
    card = page.locator(".easel-campaign", has_text=drawn_by)
    expect(card).to_contain_text("5 of 200 votes, 5 by you")
    expect(card).to_contain_text("There are 60 different pairs")
    with page.expect_download() as download:
        card.get_by_role("link", name="Export votes").click()
    assert download.value.suggested_filename == f"{drawn_by}.zip"
    with zipfile.ZipFile(download.value.path()) as archive:
        kept = [json.loads(line) for line in archive.read("votes.jsonl").splitlines()]
        pictures = {name for name in archive.namelist() if name.startswith("images/")}
    given = [row["vote"] for row in kept if "vote" in row]
    assert len(given) == 6  # the skip is kept too
    assert {f"images/{vote[side]}.png" for vote in given for side in ("left", "right")} <= pictures
    assert campaign_named(studio, drawn_by)["votes"] == 5


def test_undo_brings_the_same_pair_back(visit: Visit, studio: Served, drawn_by: str):
    page = visit()
    start_rating(page, drawn_by, "Bea")
    asked = page.locator(".easel-pair-frame img").first.get_attribute("src")
    press_when_shown(page, "ArrowLeft")
    expect(page.locator(".easel-pair-numbers strong")).to_have_text("1 vote")
    page.keyboard.press("u")
    expect(page.locator(".easel-pair-frame img").first).to_have_attribute("src", asked)
    expect(page.locator(".easel-pair-numbers strong")).to_have_text("0 votes")
    press_when_shown(page, "ArrowRight")
    expect(page.locator(".easel-pair-saved")).to_have_text("saved")


def test_zoom_shows_the_same_place_of_both(visit: Visit, drawn_by: str):
    page = visit()
    start_rating(page, drawn_by, "Cleo")
    frame = page.locator(".easel-pair-frame").first.bounding_box()
    page.mouse.move(frame["x"] + frame["width"] / 4, frame["y"] + frame["height"] / 4)
    page.keyboard.down("z")
    styles = page.locator(".easel-pair-frame img").evaluate_all(
        "all => all.map(i => { const s = getComputedStyle(i);"
        " return [s.transform, s.transformOrigin.split(' ').map(parseFloat).map(Math.round)]; })"
    )
    page.keyboard.up("z")
    assert styles[0] == styles[1]
    assert styles[0][0] == "matrix(3, 0, 0, 3, 0, 0)"
    assert styles[0][1] == pytest.approx([frame["width"] / 4, frame["height"] / 4], abs=2)
    expect(page.locator(".easel-pair.zoomed")).to_have_count(0)


def test_the_view_says_nothing_of_model_or_seed(visit: Visit, drawn_by: str):
    page = visit()
    answers: list[str] = []
    page.on("response", lambda r: "/rate/pairs" in r.url and answers.append(r.text()))
    start_rating(page, drawn_by, "Dora")
    told = page.locator("#easel-voting").inner_html() + "".join(answers)
    assert answers and not re.search(r"tiny|seed|model|sha256|score", told, re.IGNORECASE)


@pytest.mark.parametrize("status", [0, 507], ids=["away", "full"])
def test_a_vote_given_while_the_studio_is_away_or_its_disk_full_is_kept(
    visit: Visit,
    context: BrowserContext,
    studio: Served,
    drawn_by: str,
    complaints: Complaints,
    status: int,
):
    page = visit()
    start_rating(page, drawn_by, "Emil")
    before = campaign_named(studio, drawn_by)["votes"]
    context.route(
        "**/easel/rate/votes",
        lambda route: route.fulfill(status=status, json={}) if status else route.abort(),
    )
    press_when_shown(page, "ArrowLeft")
    expect(page.locator(".easel-pair-saved")).to_contain_text("1 not saved yet")
    assert campaign_named(studio, drawn_by)["votes"] == before
    context.unroute("**/easel/rate/votes")
    expect(page.locator(".easel-pair-saved")).to_have_text("saved")
    assert campaign_named(studio, drawn_by)["votes"] == before + 1
    expect_refused_votes(complaints)


def test_a_second_tab_is_told_that_its_pair_is_answered(
    visit: Visit, drawn_by: str, complaints: Complaints
):
    one, other = visit(), visit()
    for page in (one, other):
        start_rating(page, drawn_by, "Fay")
    shown = [p.locator(".easel-pair-frame img").first.get_attribute("src") for p in (one, other)]
    assert shown[0] == shown[1]
    press_when_shown(one, "ArrowLeft")
    expect(one.locator(".easel-pair-saved")).to_have_text("saved")
    other.bring_to_front()
    press_when_shown(other, "ArrowRight")
    expect(other.locator("#easel-toast")).to_contain_text("answered already")
    expect(other.locator(".easel-pair-numbers strong")).to_have_text("0 votes")
    expect_refused_votes(complaints)


def test_what_an_export_leaves_out_is_chosen_beside_it(visit: Visit, studio: Served, drawn_by: str):
    page = visit()
    start_rating(page, drawn_by, "Gwen")
    press_when_shown(page, "ArrowLeft")
    page.keyboard.press("Escape")
    card = page.locator(".easel-campaign", has_text=drawn_by)
    card.get_by_label("without names").check()
    with page.expect_download() as waiting:
        card.get_by_role("link", name="Export votes").click()
    with zipfile.ZipFile(waiting.value.path()) as archive:
        assert b"Gwen" not in archive.read("votes.jsonl")
    card.get_by_label("without names").uncheck()
    with page.expect_download() as waiting:
        card.get_by_role("link", name="Export votes").click()
    with zipfile.ZipFile(waiting.value.path()) as archive:
        assert b"Gwen" in archive.read("votes.jsonl")


def test_a_campaign_is_made_paused_and_archived_in_the_page(visit: Visit):
    page = visit()
    page.get_by_role("tab", name="Rate").click()
    page.locator(".easel-new-campaign summary").click()
    page.get_by_label("Name", exact=True).fill("Kettles")
    page.get_by_label("Prompts", exact=True).fill("a copper kettle\na blue kettle")
    page.get_by_role("checkbox", name="Easel starter").uncheck()
    page.get_by_role("checkbox", name="tiny").check()
    page.get_by_label("Steps", exact=True).last.fill("1")
    expect(page.locator(".easel-campaign-form")).to_contain_text("12 different pairs can be shown.")
    expect(page.get_by_label("Votes wanted")).to_have_value("12")
    page.get_by_label("Votes wanted").fill("30")
    expect(page.locator(".easel-campaign-form")).to_contain_text("30 votes take 3 raters")
    page.get_by_role("button", name="Begin the campaign").click()
    card = page.locator(".easel-campaign", has_text="Kettles")
    expect(card).to_contain_text("2 prompts, 4 pictures each")
    card.get_by_label("Next pair").select_option("random")
    expect(page.locator("#easel-toast")).to_have_text("From the next pairs on.")
    card.get_by_role("button", name="Pause").click()
    expect(card.get_by_role("button", name="Start rating")).to_be_disabled()
    card.get_by_role("button", name="Resume").click()
    expect(card.get_by_role("button", name="Start rating")).to_be_enabled()
    card.get_by_role("button", name="Archive").click()
    expect(page.locator(".easel-rate-archive .easel-campaign")).to_contain_text("Kettles")


def test_what_a_campaign_drew_stands_apart_from_the_artist_s_pictures(visit: Visit, drawn_by: str):
    page = visit()
    start_rating(page, drawn_by, "Gus")  # so there are pictures
    page.keyboard.press("Escape")
    expect(page.locator(".easel-tile")).to_have_count(0)
    page.get_by_role("tab", name="Gallery").click()
    expect(page.locator(".easel-empty")).to_be_visible()
    page.get_by_role("button", name="Drawn for campaigns").click()
    expect(page.locator(".easel-card").first).to_be_visible()
    page.get_by_role("button", name="Drawn for campaigns").click()
    expect(page.locator(".easel-empty")).to_be_visible()
