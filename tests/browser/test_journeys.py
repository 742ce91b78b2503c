"""What an artist does, in a real browser."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable

from playwright.sync_api import BrowserContext, Page, Route, expect

from tests.browser.waiting import drawn
from tests.ui.served import Served

Visit = Callable[[], Page]
HOSTILE = "<img src=x onerror=alert(1)>"
expect.set_options(timeout=60_000)


def prompt(page: Page):
    return page.get_by_label("Prompt", exact=True)


def set_form(page: Page, words: str, steps: int = 2, count: int = 1, width: int = 64) -> None:
    prompt(page).fill(words)
    page.get_by_label("Width", exact=True).fill(str(width))
    page.get_by_label("Pictures", exact=True).fill(str(count))
    if not page.get_by_label("number input for Steps (num_inference_steps)").is_visible():
        page.get_by_role("button", name="More").click()
    page.get_by_label("number input for Steps (num_inference_steps)").fill(str(steps))
    page.keyboard.press("Tab")


def draw(page: Page, words: str, **numbers: int) -> None:
    """Fill the form, press Ctrl+Enter and wait until nothing is left to draw."""
    set_form(page, words, **numbers)
    drawn(page)


def test_first_picture(visit: Visit, studio: Served):
    page = visit()
    expect(page.get_by_role("heading", name="What shall we draw?")).to_be_visible()
    draw(page, "red apple", count=2)
    expect(page.locator(".easel-frame img")).to_have_attribute("src", re.compile("/easel/picture/"))
    expect(page.locator(".easel-strip .easel-tile")).to_have_count(2)
    expect(page.locator(".easel-history .easel-tile")).to_have_count(2)
    shown = page.locator(".easel-frame").bounding_box()
    assert round(shown["width"]) == 4 * 64  # small pictures grow four times
    assert page.evaluate("Object.keys(localStorage).length") == 0  # S10


def test_cancel_keeps_what_is_finished(visit: Visit, studio: Served):
    page = visit()
    set_form(page, "a long drawing", steps=100, count=64, width=512)
    page.keyboard.press("Control+Enter")
    cancel = page.locator("#easel-cancel-button")
    expect(cancel).to_contain_text("step")
    expect(page).to_have_title(re.compile(r"\d+ % · Easel"))
    cancel.click()
    expect(page.locator("html")).not_to_have_class(re.compile("easel-busy"))
    expect(page).to_have_title("Easel")
    assert studio.ask("/easel/state").json()["now"]["state"] == "cancelled"


def test_all_that_waits_is_cancelled_at_once(visit: Visit, studio: Served):
    page = visit()
    set_form(page, "a lantern\na bridge\na tower", steps=100, count=64, width=512)
    page.get_by_label("One panel a line").check()
    page.keyboard.press("Control+Enter")
    page.locator("#easel-queue-chip").click()
    expect(page.locator(".easel-what").nth(1)).to_contain_text("panel 2 of 3: a bridge")
    page.get_by_role("button", name="Cancel all 3").click()
    expect(page.locator("html")).not_to_have_class(re.compile("easel-busy"))
    state = studio.ask("/easel/state").json()
    assert (state["now"]["state"], state["queue"]) == ("cancelled", [])
    page.get_by_label("One panel a line").uncheck()


def test_a_reloaded_page_finds_its_drawing_and_its_form(visit: Visit):
    page = visit()
    set_form(page, "a drawing that goes on", steps=100, count=64, width=512)
    page.keyboard.press("Control+Enter")
    expect(page.locator("#easel-cancel-button")).to_contain_text("step")
    page.reload()
    expect(page.locator("#easel-cancel-button")).to_contain_text("step")
    expect(page.locator(".easel-caption")).to_contain_text("a drawing that goes on")
    expect(prompt(page)).to_have_value("a drawing that goes on")
    expect(page.get_by_label("Pictures", exact=True)).to_have_value("64")
    page.locator("#easel-cancel-button").click()
    expect(page.locator("html")).not_to_have_class(re.compile("easel-busy"))


def test_typed_words_survive_a_reload(visit: Visit):
    page = visit()
    prompt(page).fill("typed and never drawn")
    page.reload()
    expect(prompt(page)).to_have_value("typed and never drawn")


def test_the_gallery_searches_stars_bins_and_brings_back(visit: Visit):
    page = visit()
    draw(page, "unicorn at dusk")
    with page.expect_response(re.compile("/gradio_api/")):  # which tab is open is kept
        page.get_by_role("tab", name="Gallery").click()
    with page.expect_response(re.compile("/easel/kept/gallery")):
        page.get_by_label("Search prompts").fill("unicorn")
    cards = page.locator(".easel-card")
    expect(cards).to_have_count(1)
    page.reload()
    expect(page.get_by_role("tab", name="Gallery")).to_have_attribute("aria-selected", "true")
    expect(page.get_by_label("Search prompts")).to_have_value("unicorn")
    expect(cards).to_have_count(1)
    cards.locator(".easel-card-picture").click()
    page.keyboard.press("s")
    expect(page.locator(".easel-viewer .easel-icon.starred")).to_be_visible()
    page.keyboard.press("4")
    expect(page.get_by_role("button", name="Rate 4 of 5")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("Escape")
    expect(page.locator(".easel-card.starred")).to_have_count(1)
    cards.locator(".easel-card-picture").focus()
    page.keyboard.press("Delete")
    expect(cards).to_have_count(0)
    page.get_by_role("button", name="Undo").click()
    expect(cards).to_have_count(1)


def test_a_search_that_is_typed_before_the_kept_filters_arrive_stays(
    visit: Visit, context: BrowserContext
):
    page, held = visit(), []

    def hold(route: Route) -> None:
        held.append(route) if route.request.method == "GET" else route.continue_()

    context.route("**/easel/kept/gallery", hold)
    page.reload()
    page.get_by_role("tab", name="Gallery").click()
    page.get_by_label("Search prompts").fill("no such thing")
    page.get_by_role("button", name="Starred").click()
    expect(page.get_by_role("button", name="Starred")).to_have_attribute("aria-pressed", "true")
    held[0].fulfill(json={"search": "", "starred": False, "campaigns": True})
    expect(page.get_by_role("button", name="Drawn for campaigns")).to_have_attribute(
        "aria-pressed", "true"
    )
    expect(page.get_by_role("button", name="Starred")).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_label("Search prompts")).to_have_value("no such thing")
    expect(page.locator(".easel-empty")).to_contain_text("“no such thing”")


def test_binning_the_newest_brings_no_old_picture_to_the_top(visit: Visit):
    page = visit()
    draw(page, "one of many", count=64, steps=1)  # more than the gallery loads at once
    page.get_by_role("tab", name="Gallery").click()
    cards = page.locator(".easel-card")
    expect(cards.nth(59)).to_be_attached()
    for place in range(3):
        cards.nth(place).hover()
        cards.nth(place).get_by_role("button", name="Select").click()
    for act in ("To the bin", "Undo"):
        with page.expect_response(re.compile("/easel/pictures[?]")):  # the newest is another now
            page.get_by_role("button", name=act).click()
        shown = cards.evaluate_all("(all) => all.map((card) => Number(card.dataset.picture))")
        assert shown == sorted(shown, reverse=True)


def test_a_selection_becomes_a_numbered_sheet(visit: Visit):
    page = visit()
    draw(page, "sheet of two", count=2)
    page.get_by_role("tab", name="Gallery").click()
    page.get_by_label("Search prompts").fill("sheet of two")
    expect(page.locator(".easel-card")).to_have_count(2)
    for card in page.locator(".easel-card").all():
        card.hover()
        card.get_by_role("button", name="Select").click()
    for kind, magic in (("PNG", b"\x89PNG"), ("PDF", b"%PDF")):
        with page.expect_download() as download:
            page.get_by_role("link", name=f"Contact sheet {kind}").click()
        assert download.value.path().read_bytes().startswith(magic)


def test_dark_mode_is_remembered(visit: Visit):
    page = visit()
    page.get_by_role("button", name="Light or dark").click()
    expect(page.locator("body")).to_have_class(re.compile(r"\bdark\b"))
    page.reload()
    expect(page.locator("body")).to_have_class(re.compile(r"\bdark\b"))
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(16, 16, 16)"


def test_a_hostile_prompt_is_only_text(visit: Visit):
    page = visit()
    draw(page, HOSTILE)
    expect(page.locator(".easel-caption")).to_contain_text(HOSTILE)
    page.get_by_role("tab", name="Gallery").click()
    expect(page.locator(".easel-card-words").first).to_contain_text("<img src=x")
    page.locator(".easel-card-picture").first.click()
    expect(page.locator(".easel-viewer-prompt")).to_have_text(HOSTILE)
    assert page.locator("img[src='x']").count() == 0


def test_a_wrong_size_is_said_at_its_field(visit: Visit):
    page = visit()
    page.get_by_label("Width", exact=True).fill("65")
    page.keyboard.press("Control+Enter")
    problem = page.locator(".easel-problem[data-field=width]")
    expect(problem).to_have_text("A width of 65 is not a multiple of 8; try 64 or 72.")
    row = page.locator(".easel-row", has=page.get_by_label("Width", exact=True)).bounding_box()
    assert problem.bounding_box()["y"] >= row["y"] + row["height"] - 8  # it hides no other field
    page.get_by_label("Width", exact=True).fill("64")
    expect(problem).to_have_count(0)


def test_question_mark_shows_the_keys(visit: Visit):
    page = visit()
    page.locator("body").press("?")
    expect(page.get_by_role("dialog", name="Keys")).to_contain_text("Ctrl + Enter")


def test_the_tools_of_a_picture_stand_on_one_line(visit: Visit):
    page = visit()
    page.get_by_role("tab", name="Text to image", exact=True).click()
    draw(page, "a line of tools")
    icons = page.locator(".easel-tools .easel-toolbar .easel-icon svg")
    expect(icons.first).to_be_visible()
    middles = [box["y"] + box["height"] / 2 for box in map(lambda i: i.bounding_box(), icons.all())]
    assert len(middles) > 3
    assert max(middles) - min(middles) < 1


def test_a_model_that_is_put_into_its_folder_is_offered_when_the_picker_opens(
    visit: Visit, studio: Served
):
    page = visit()
    models = studio.data_dir.parent / "models"
    shutil.copytree(models / "tiny", models / "new-one")
    try:
        page.locator("body").click(position={"x": 640, "y": 5})
        page.get_by_label("Model", exact=True).click()
        expect(page.get_by_role("option", name="new-one")).to_be_visible()
        page.get_by_role("option", name="new-one").click()
        expect(page.get_by_label("Model", exact=True)).to_have_value(re.compile("new-one"))
        expect(page.get_by_label("Width", exact=True)).to_have_value("64")
    finally:
        shutil.rmtree(models / "new-one")


def test_the_gallery_narrows_to_one_set_of_panels(visit: Visit):
    page = visit()
    page.get_by_role("tab", name="Text to image", exact=True).click()
    set_form(page, "a lantern\na bridge")
    page.get_by_label("One panel a line").check()
    page.get_by_label("Name of the set").fill("Scene 4, rooftop")
    page.keyboard.press("Tab")
    drawn(page)
    page.get_by_role("tab", name="Gallery").click()
    page.get_by_label("Set of panels").select_option(label="Scene 4, rooftop (2)")
    expect(page.locator(".easel-card-words")).to_have_text(["a lantern", "a bridge"])
    expect(page.locator(".easel-card-panel")).to_have_text(["1", "2"])
    page.get_by_label("Set of panels").select_option(label="All sets")
    expect(page.locator(".easel-card").nth(2)).to_be_visible()


def test_a_broken_style_is_named_on_the_page_until_it_is_read(visit: Visit, studio: Served):
    folder = studio.data_dir / "presets"
    folder.mkdir(exist_ok=True)
    (folder / "mine.json").write_text("{", encoding="utf-8")
    page = visit()
    note = page.locator(".easel-banner", has_text="'mine.json.broken' is broken")
    expect(note).to_be_visible()
    page.get_by_role("button", name="I have read it").click()
    expect(note).to_have_count(0)
    (folder / "mine.json.broken").unlink()
