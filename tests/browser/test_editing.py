"""What an artist does with a source: paint, lose nothing, send, compare; by real strokes."""

from __future__ import annotations

import base64
import io
import re
import time
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from studio.store.sources import pixel_hash
from tests.browser.conftest import Complaints
from tests.browser.waiting import drawn
from tests.store.test_files import png_claiming
from tests.ui.served import Served

Visit = Callable[[], Page]
SAVED_WITHIN = 5.0  # seconds after a stroke
expect.set_options(timeout=60_000)


def scene(width: int, height: int, seed: int = 0) -> bytes:
    """A picture whose neighbouring rows and columns differ, as a small PNG."""
    rows, columns = np.mgrid[0:height, 0:width]
    bands = [rows * (3 + n) + columns * (5 + 2 * n) + 37 * seed for n in range(3)]
    stream = io.BytesIO()
    Image.fromarray((np.stack(bands, axis=2) % 256).astype(np.uint8)).save(stream, format="PNG")
    return stream.getvalue()


def pixels(content: bytes, mode: str = "RGB") -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert(mode)).astype(int)


def canvas(page: Page) -> Locator:
    """The canvas on view, once its picture and what was painted on it are there."""
    return page.locator(".easel-desk:not([hidden]) .easel-canvas[aria-busy=false]")


def open_source(page: Page, tab: str, content: bytes) -> None:
    page.get_by_role("tab", name=tab).click()
    page.locator("#easel-panes").get_by_role("button", name="Source").click()
    chooser = page.locator("#easel-editor input[type=file]").first
    if page.locator(".easel-origin").is_visible():
        chooser = page.locator(".easel-origin input[type=file]")
    chooser.set_input_files({"name": "a.png", "mimeType": "image/png", "buffer": content})
    picture = Image.open(io.BytesIO(content))
    expect(page.locator(".easel-origin a[download]")).to_have_attribute(
        "href", f"/easel/source/{pixel_hash(picture)}.png"
    )
    expect(page.locator(".easel-origin")).to_contain_text(f"{picture.width} × {picture.height} px")
    expect(canvas(page)).to_be_visible()
    page.get_by_role("tab", name=tab).click()  # where it is open already this does nothing


def stroke(page: Page, across: float = 0.2) -> None:
    """Paint a level line through the middle of the picture, `across` of the canvas each way."""
    box = canvas(page).bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    reach = across * min(box["width"], box["height"])
    page.mouse.move(x - reach, y)
    page.mouse.down()
    page.mouse.move(x + reach, y, steps=12)
    page.mouse.up()


def newest(studio: Served) -> dict:
    return studio.ask("/easel/pictures?limit=1").json()["pictures"][0]


def result(studio: Served) -> np.ndarray:
    return pixels(studio.ask(f"/easel/picture/{newest(studio)['id']}").body)


def mask_file(page: Page) -> bytes:
    page.locator(".easel-desk.mask summary").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download the mask").click()
    return download.value.path().read_bytes()


def hand_over(page: Page, kind: str, target: str, content: bytes) -> None:
    """Paste or drop a file, as the browser would."""
    page.evaluate(
        """([kind, target, text]) => {
          const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
          const data = new DataTransfer();
          data.items.add(new File([bytes], "a.png", { type: "image/png" }));
          const carried = { bubbles: true, cancelable: true };
          const event = kind === "paste"
            ? new ClipboardEvent(kind, { ...carried, clipboardData: data })
            : new DragEvent(kind, { ...carried, dataTransfer: data });
          document.querySelector(target).dispatchEvent(event);
        }""",
        [kind, target, base64.b64encode(content).decode()],
    )


def test_a_mask_painted_at_1536_pixels_arrives_at_1536_pixels(visit: Visit, studio: Served):
    page, source = visit(), scene(1536, 1536)
    open_source(page, "Inpaint", source)
    page.get_by_role("radiogroup", name="Area").get_by_text("Only masked", exact=True).click()
    expect(page.get_by_label("Width", exact=True)).to_be_visible()
    stroke(page)
    drawn(page)
    edit = newest(studio)["edit"]
    mask = pixels(studio.ask(f"/easel/source/{edit['mask']}.png").body, "L")
    assert mask.shape == (1536, 1536)
    rows, columns = np.nonzero(mask)
    assert mask.max() == 255
    assert abs(rows.mean() - 768) < 8
    assert abs(columns.mean() - 768) < 8
    assert 0.3 * 1536 < np.ptp(columns) < 0.6 * 1536
    far = np.ones_like(mask, dtype=bool)
    far[rows.min() - 40 : rows.max() + 40, columns.min() - 40 : columns.max() + 40] = False
    after, before = result(studio), pixels(source)
    assert (after[far] == before[far]).all()
    assert (after[~far] != before[~far]).any()
    page.get_by_role("tab", name="Inpaint").click()
    page.locator("#easel-panes").get_by_role("button", name="Source").click()
    page.get_by_role("radiogroup", name="Area").get_by_text("Whole picture", exact=True).click()


def test_a_stroke_is_saved_within_five_seconds_and_survives_a_reload(visit: Visit, studio: Served):
    page = visit()
    open_source(page, "Inpaint", scene(1536, 1024, seed=1))
    with page.expect_response(re.compile("/easel/draft/mask-")) as answer:
        began = time.monotonic()
        stroke(page)
        finished = time.monotonic()
    assert answer.value.status == 200
    assert time.monotonic() - finished < SAVED_WITHIN
    assert finished - began < SAVED_WITHIN
    painted = pixels(mask_file(page), "L")
    assert painted.shape == (1024, 1536)
    assert painted.any()
    page.reload()
    expect(page.get_by_role("tab", name="Inpaint")).to_have_attribute("aria-selected", "true")
    expect(canvas(page)).to_be_visible()
    page.wait_for_load_state("networkidle")
    assert (pixels(mask_file(page), "L") == painted).all()


def test_a_long_stroke_is_saved_while_it_goes_on(visit: Visit):
    page = visit()
    open_source(page, "Inpaint", scene(64, 64, seed=15))
    box = canvas(page).bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    with page.expect_response(re.compile("/easel/draft/mask-")) as answer:
        page.mouse.down()
        page.mouse.move(x + 40, y, steps=5)  # and the brush stays down
    assert answer.value.status == 200
    page.mouse.up()


def test_a_page_closed_right_after_a_stroke_still_keeps_it(visit: Visit):
    page = visit()
    open_source(page, "Inpaint", scene(64, 64, seed=2))
    stroke(page)
    page.reload()
    expect(canvas(page)).to_be_visible()
    page.wait_for_load_state("networkidle")
    assert pixels(mask_file(page), "L").any()


def test_the_drawing_outlives_a_change_of_tabs_and_a_source_that_is_gone(
    visit: Visit, studio: Served
):
    page = visit()
    open_source(page, "Inpaint", scene(64, 64, seed=3))
    stroke(page)
    painted = pixels(mask_file(page), "L")
    page.get_by_role("tab", name="Gallery").click()
    page.get_by_role("tab", name="Image to image").click()
    page.get_by_role("tab", name="Inpaint").click()
    assert (pixels(mask_file(page), "L") == painted).all()
    sha256 = page.locator(".easel-origin a[download]").get_attribute("href").split("/")[-1][:64]
    file = studio.data_dir / "sources" / sha256[:2] / f"{sha256}.png"
    kept = file.read_bytes()
    file.unlink()
    page.keyboard.press("Control+Enter")
    expect(page.locator("#easel-toast, .easel-problem").first).to_contain_text("not in the data")
    file.write_bytes(kept)
    assert (pixels(mask_file(page), "L") == painted).all()
    drawn(page)
    assert newest(studio)["edit"]["source"] == sha256


def test_undo_redo_eraser_and_a_brush_moved_by_keys(visit: Visit):
    page = visit()
    open_source(page, "Inpaint", scene(64, 64, seed=4))
    stroke(page)
    painted = pixels(mask_file(page), "L")
    canvas(page).focus()
    page.keyboard.press("Control+z")
    assert not pixels(mask_file(page), "L").any()
    canvas(page).focus()
    page.keyboard.press("Control+Shift+z")
    assert (pixels(mask_file(page), "L") == painted).all()
    page.keyboard.press("e")
    expect(page.get_by_role("button", name="Eraser (E)").first).to_have_attribute(
        "aria-pressed", "true"
    )
    for _ in range(8):
        page.keyboard.press("]")
    stroke(page)
    assert not pixels(mask_file(page), "L").any()
    page.keyboard.press("b")
    box = canvas(page).bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert pixels(mask_file(page), "L")[32, 32] == 255  # a click is a dab
    page.keyboard.press("Control+z")
    assert not pixels(mask_file(page), "L").any()
    canvas(page).focus()
    for key in ("ArrowLeft", "ArrowUp", "Enter"):
        page.keyboard.press(key)
    assert pixels(mask_file(page), "L").any()


def test_zoom_changes_the_view_and_not_the_mask(visit: Visit):
    page = visit()
    open_source(page, "Inpaint", scene(640, 480, seed=5))
    stroke(page, 0.1)
    once = pixels(mask_file(page), "L")
    canvas(page).focus()
    for _ in range(3):
        page.keyboard.press("+")
    expect(canvas(page).get_by_title("Fit (0)")).not_to_have_text("100 %")
    stroke(page, 0.1)
    twice = pixels(mask_file(page), "L")
    assert twice.shape == (480, 640)
    assert (twice >= once).all()
    assert (twice > 0).sum() < 1.2 * (once > 0).sum()  # the second stroke is inside the first


def test_send_to_inpaint_takes_the_settings_and_shows_the_lineage(visit: Visit, studio: Served):
    page = visit()
    page.get_by_label("Prompt", exact=True).fill("lighthouse to be sent")
    drawn(page)
    parent = newest(studio)
    page.get_by_label("Prompt", exact=True).fill("something else")
    page.locator("#easel-stage summary", has_text="Send to").click()
    page.locator("#easel-stage").get_by_role("button", name="Inpaint").click()
    expect(canvas(page)).to_be_visible()
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("lighthouse to be sent")
    expect(page.locator(".easel-origin")).to_contain_text("64 × 64 px")
    page.locator("#easel-toast").get_by_role("button", name="Undo").click()
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("something else")
    expect(page.get_by_role("tab", name="Text to image")).to_have_attribute("aria-selected", "true")
    expect(page.locator("#easel-toast")).to_contain_text("Back: “something else”")
    page.locator("#easel-earlier summary").click()
    page.locator("#easel-earlier").get_by_role("button", name="lighthouse to be sent").click()
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("lighthouse to be sent")
    expect(canvas(page)).to_be_visible()
    stroke(page)
    drawn(page)
    edit = newest(studio)["edit"]
    assert edit["parent"] == parent["id"]
    family = page.locator("#easel-stage .easel-family")
    expect(family).to_contain_text("Made from")
    family.locator(f"[data-picture='{parent['id']}']").click()
    expect(page.locator("#easel-stage .easel-family")).to_contain_text("Became")


def test_before_and_after_slide_over_each_other(visit: Visit, studio: Served):
    page = visit()
    open_source(page, "Image to image", scene(64, 64, seed=6))
    drawn(page)
    page.get_by_role("button", name="Before and after (O)").click()
    slider = page.locator("#easel-stage .easel-slider")
    expect(slider.get_by_role("img", name="Before")).to_have_attribute(
        "src", f"/easel/source/{newest(studio)['edit']['source']}.png"
    )
    slider.get_by_role("slider", name="Before and after").press("Home")
    assert slider.evaluate("e => e.style.getPropertyValue('--cut')") == "0%"
    slider.get_by_role("slider", name="Before and after").press("End")
    assert slider.evaluate("e => e.style.getPropertyValue('--cut')") == "100%"
    page.locator("#easel-stage").click(position={"x": 1, "y": 1})
    page.keyboard.press("Escape")
    expect(slider).to_have_count(0)


def test_any_two_pictures_are_compared_with_what_differs(visit: Visit):
    page = visit()
    page.get_by_label("Prompt", exact=True).fill("two to compare")
    page.get_by_label("Pictures", exact=True).fill("2")
    page.keyboard.press("Tab")
    drawn(page)
    page.get_by_label("Pictures", exact=True).fill("1")
    page.get_by_role("tab", name="Gallery").click()
    page.get_by_label("Search prompts").fill("two to compare")
    expect(page.locator(".easel-card")).to_have_count(2)
    for card in page.locator(".easel-card").all():
        card.hover()
        card.get_by_role("button", name="Select").click()
    expect(page.locator(".easel-choice")).to_have_text(re.compile(r"^2 selected\s*Compare"))
    page.get_by_role("button", name="Compare the two").click()
    comparison = page.get_by_role("dialog", name="Comparison")
    expect(comparison.get_by_role("img")).to_have_count(2)
    expect(comparison.get_by_role("row")).to_have_count(2)  # the head, and the seed
    expect(comparison.get_by_role("row").last).to_contain_text("Seed")
    comparison.get_by_role("button", name="Slider").click()
    expect(comparison.get_by_role("slider")).to_be_visible()
    page.keyboard.press("Escape")
    expect(comparison).to_have_count(0)
    page.get_by_role("button", name="Select nothing (Esc)").click()
    page.locator(".easel-card").first.hover()
    page.locator(".easel-card").first.get_by_role("button", name="Select").click()
    expect(page.locator(".easel-choice")).to_have_text(re.compile(r"^1 selected\s*Contact sheet"))


def test_colours_painted_over_the_source_are_drawn_from(visit: Visit, studio: Served):
    page, source = visit(), scene(64, 64, seed=7)
    open_source(page, "Image to image", source)
    page.get_by_label("number input for Strength (denoising)").fill("0")
    page.keyboard.press("Tab")
    page.get_by_role("button", name="Paint colours over the source").click()
    page.get_by_role("button", name="Colour #2f6fb3").click()
    stroke(page)
    drawn(page)
    after, before = result(studio), pixels(source)
    assert (after[32, 32] == (0x2F, 0x6F, 0xB3)).all()
    assert (after[:16] == before[:16]).all()
    page.get_by_label("number input for Strength (denoising)").fill("0.75")
    page.keyboard.press("Tab")


def test_a_square_grows_to_a_wide_frame_and_stays_itself(visit: Visit, studio: Served):
    page, source = visit(), scene(64, 64, seed=8)
    open_source(page, "Inpaint", source)
    page.locator("#easel-panes").get_by_role("button", name="Result").click()
    page.get_by_role("button", name="Extend the picture (outpainting)").click()
    expect(canvas(page)).to_be_visible()  # the source, where the frame is seen
    page.locator("#easel-extend").get_by_text("16:9", exact=True).click()
    expect(page.locator("#easel-extend-left input")).to_have_value("24")
    expect(page.locator(".easel-desk.mask .easel-extension")).to_be_visible()
    expect(page.locator(".easel-extending")).to_contain_text("prompt does not take part")
    page.reload()
    expect(page.locator(".easel-desk.mask .easel-extension")).to_be_visible()
    expect(page.locator("#easel-extend-right input")).to_have_value("26")
    drawn(page)
    after = result(studio)
    assert after.shape[:2] == (64, 114)
    assert (after[:, 24:88] == pixels(source)).all()
    page.get_by_role("button", name="Do not extend").click()
    expect(page.locator("#easel-extend-left input")).to_have_value("0")


@pytest.mark.parametrize(("kind", "target"), [("paste", "body"), ("drop", "#easel-editor")])
def test_a_pasted_or_dropped_picture_is_the_source(visit: Visit, kind: str, target: str):
    page = visit()
    page.get_by_role("tab", name="Image to image").click()
    expect(page.locator("#easel-editor")).to_be_visible()
    hand_over(page, kind, target, scene(72, 56, seed=9 if kind == "paste" else 10))
    expect(page.locator(".easel-origin")).to_contain_text("72 × 56 px")


def test_a_dropped_file_brings_its_settings_to_any_tab(visit: Visit, studio: Served):
    page = visit()
    page.get_by_label("Prompt", exact=True).fill("told by its file")
    drawn(page)
    file = studio.ask(f"/easel/picture/{newest(studio)['id']}").body
    page.get_by_label("Prompt", exact=True).fill("another")
    hand_over(page, "drop", "#easel-stage", file)
    offered = page.get_by_role("dialog", name="What shall become of this picture?")
    offered.get_by_role("button", name="Inpaint").click()
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("told by its file")
    expect(page.get_by_role("tab", name="Inpaint")).to_have_attribute("aria-selected", "true")
    expect(canvas(page)).to_be_visible()


def test_an_untouched_source_gets_a_sentence_instead_of_a_job(visit: Visit, studio: Served):
    page = visit()
    open_source(page, "Inpaint", scene(64, 64, seed=11))
    page.keyboard.press("Control+Enter")
    expect(page.locator(".easel-problem")).to_contain_text("paint over a part, or extend a side")
    stroke(page)
    expect(page.locator(".easel-problem")).to_have_count(0)


def test_a_mask_of_another_size_is_refused_and_the_drawing_kept(visit: Visit):
    page = visit()
    open_source(page, "Inpaint", scene(64, 64, seed=12))
    stroke(page)
    painted = pixels(mask_file(page), "L")
    chooser = page.locator(".easel-desk.mask input[type=file]")
    wrong = {"name": "m.png", "mimeType": "image/png", "buffer": scene(32, 64)}
    chooser.set_input_files(wrong)
    expect(page.locator("#easel-toast")).to_contain_text("32 × 64 pixels and the picture 64 × 64")
    assert (pixels(mask_file(page), "L") == painted).all()
    right = Image.new("L", (64, 64))
    right.paste(255, (8, 8, 24, 24))
    stream = io.BytesIO()
    right.save(stream, format="PNG")
    chooser.set_input_files({"name": "m.png", "mimeType": "image/png", "buffer": stream.getvalue()})
    expect(page.locator("#easel-toast")).to_contain_text("The mask is on the picture")
    assert (pixels(mask_file(page), "L") == np.asarray(right)).all()


def test_what_is_no_picture_to_edit_gets_a_sentence_and_the_drawing_is_kept(
    visit: Visit, complaints: Complaints
):
    page = visit()
    open_source(page, "Inpaint", scene(64, 64, seed=14))
    stroke(page)
    painted = pixels(mask_file(page), "L")
    frames = [Image.new("RGB", (64, 64), (90 * n, 0, 0)) for n in range(3)]
    moving = io.BytesIO()
    frames[0].save(moving, format="PNG", save_all=True, append_images=frames[1:])
    whole = scene(64, 64)
    cut_off = whole[: len(whole) // 2]
    for content, sentence in (
        (b"not a picture at all", "is not a PNG, JPEG or WebP picture"),
        (scene(1, 1), "is 1 x 1 pixels"),
        (png_claiming(60_000, 60_000), "has more than 64,000,000 pixels"),
        (moving.getvalue(), "is an animation of 3 pictures"),
        (cut_off, "is damaged"),
    ):
        hand_over(page, "paste", "body", content)
        expect(page.locator("#easel-toast")).to_contain_text(sentence)
    assert (pixels(mask_file(page), "L") == painted).all()
    assert all("400 (Bad Request)" in line for line in complaints.lines)
    complaints.lines.clear()


@pytest.mark.parametrize("tab", ["Image to image", "Inpaint"])
def test_nothing_scrolls_sideways_and_every_button_can_be_reached(visit: Visit, tab: str):
    page = visit()
    open_source(page, tab, scene(320, 200, seed=13))
    if tab == "Image to image":
        sketch = page.get_by_role("button", name="Paint colours over the source")
        if sketch.get_attribute("aria-pressed") == "false":
            sketch.click()
    for width in (1280, 800):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") == width
        tools = page.locator(".easel-desk:not([hidden]) .easel-desk-bar").bounding_box()
        assert tools["x"] + tools["width"] <= width
        for name in ("Result", "Source"):  # nothing lies over them
            page.locator("#easel-panes").get_by_role("button", name=name).click()
        expect(page.locator("#easel-generate")).to_be_in_viewport()
