"""The Teach tab in a browser: pictures in, captions, a pause, a reload, an adapter out."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Callable

from PIL import Image
from playwright.sync_api import Page, expect

from tests.browser.conftest import Complaints
from tests.ui.served import Served

Visit = Callable[[], Page]
expect.set_options(timeout=60_000)
PATIENCE = 240_000  # milliseconds: the first training of a run imports torch


def png(red: int, side: int = 64) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (side, side), (red, 30, 40)).save(stream, "PNG")
    return stream.getvalue()


def drop(page: Page, files: dict[str, bytes]) -> None:
    """Drop files onto the tab, as a file manager would."""
    page.evaluate(
        """(files) => {
          const data = new DataTransfer();
          for (const [name, text] of Object.entries(files)) {
            const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
            data.items.add(new File([bytes], name));
          }
          const carried = { bubbles: true, cancelable: true, dataTransfer: data };
          document.querySelector(".easel-teach-drop").dispatchEvent(new DragEvent("drop", carried));
        }""",
        {name: base64.b64encode(content).decode() for name, content in files.items()},
    )


def pictures(page: Page):
    return page.get_by_role("group", name="Pictures to learn from").locator("figure")


def state(studio: Served) -> dict:
    return json.loads(studio.ask("/easel/teach/state").body)


def lessons(page: Page):
    return page.get_by_role("region", name="Lessons")


def fill_in(page: Page) -> None:
    """Drop three good pictures and two bad ones, and say what they are."""
    files = {f"{n}.png": png(60 * n) for n in range(3)}
    drop(page, {**files, "1.txt": b"a red castle", "bad.png": b"no picture", "tiny.png": png(1, 4)})
    expect(pictures(page)).to_have_count(3)
    beside = page.get_by_role("region", name="New lesson").get_by_role("alert")
    expect(beside).to_be_hidden()  # it said that there are too few
    refused = page.get_by_role("status", name="Files that were not taken").locator("li")
    expect(refused).to_have_count(2)
    expect(refused.first).to_contain_text("bad.png is not a PNG, JPEG or WebP picture")
    expect(refused.last).to_contain_text("tiny.png: It has 4 x 4 pixels")
    expect(page.get_by_label("Caption of 1.png")).to_have_value("a red castle")
    page.get_by_label("Caption of 0.png").fill("a tree")
    page.get_by_label("Name", exact=True).fill("Red")
    page.get_by_label("Trigger word").fill("zyx")
    page.get_by_label("Base model").select_option("tiny")
    with page.expect_response(re.compile("/describe$")):
        page.get_by_label("Effort in minutes").fill("60")


def reload(page: Page) -> None:
    page.reload()
    page.wait_for_selector("html.easel-ready", state="attached")
    page.wait_for_load_state("networkidle")  # the form, and with it the last tab, is restored
    page.get_by_role("tab", name="Teach").click()


def test_an_artist_teaches_a_style_from_dropped_pictures(
    visit: Visit, studio: Served, complaints: Complaints
):
    page = visit()
    page.get_by_role("tab", name="Teach").click()
    page.get_by_role("button", name="Start teaching").click()
    beside = page.get_by_role("region", name="New lesson").get_by_role("alert")
    expect(beside).to_contain_text("picture")
    fill_in(page)
    expect(beside).to_be_hidden()
    reload(page)
    expect(pictures(page)).to_have_count(3)
    expect(page.get_by_label("Trigger word")).to_have_value("zyx")
    page.get_by_label("Caption of 2.png").fill("a house")
    page.get_by_role("button", name="Start teaching").click()

    shown = lessons(page)
    expect(shown.get_by_role("heading", name="Red")).to_be_visible()
    expect(shown.get_by_role("status")).to_contain_text("Learning, step", timeout=PATIENCE)
    expect(pictures(page)).to_have_count(0)  # the next lesson begins empty
    expect(shown.get_by_alt_text("Samples before")).to_be_visible()
    shown.get_by_role("button", name="Pause").click()
    expect(shown.get_by_role("status")).to_contain_text("Paused", timeout=PATIENCE)
    reload(page)
    expect(shown.get_by_role("status")).to_contain_text("Paused")
    steps = state(studio)["lesson"]["curve"][-1][0]
    shown.get_by_role("button", name="Go on").click()
    page.wait_for_function(
        """async (steps) => {
          const answer = await fetch("/easel/teach/state");
          return (await answer.json()).lesson.curve.at(-1)?.[0] > steps;
        }""",
        arg=steps,
        timeout=PATIENCE,
    )
    expect(shown.get_by_role("img", name=re.compile("^Loss from"))).to_be_visible()
    shown.get_by_role("button", name="Stop now and keep").click()
    expect(shown.get_by_role("status")).to_contain_text("“zyx” in a prompt", timeout=PATIENCE)

    told = state(studio)["lesson"]
    assert (told["state"], told["adapter"]["name"]) == ("done", "Red")
    assert (studio.data_dir / "adapters" / "Red" / "adapter.kohya.safetensors").is_file()
    kept = json.loads((studio.data_dir / "teaching" / told["id"] / "lesson.json").read_text())
    assert [p["caption"] for p in kept["pictures"]] == ["a tree", "a red castle", "a house"]
    shown.get_by_role("button", name="Draw with it").click()
    tab = page.get_by_role("tab", name="Text to image")
    expect(tab).to_have_attribute("aria-selected", "true")
    expect(page.locator("#easel-prompt textarea")).to_have_value(re.compile(", zyx$"))
    page.keyboard.press("Control+Enter")
    page.wait_for_function(
        """async () => {
          const newest = (await (await fetch("/easel/pictures?limit=1")).json()).pictures[0];
          return newest?.adapters.some(([name]) => name === "Red");
        }""",
        timeout=PATIENCE,
    )
    # The browser logs every refused upload; nothing else may be there.
    complaints.lines[:] = [line for line in complaints.lines if "status of 400" not in line]
