"""What axe-core finds on the page: nothing, in light and in dark (WCAG 2.1, levels A and AA)."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.browser.waiting import drawn

RULES = {"runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}}
TABS = ("Text to image", "Image to image", "Inpaint", "Rate", "Fine-tune", "Teach", "Gallery")


SETTLED = """() => Promise.all(document.getAnimations()
  .filter((one) => one.effect?.getComputedTiming().endTime !== Infinity)
  .map((one) => one.finished.catch(() => {}))).then(() => true)"""  # halfway colours are no fault


def violations(page: Page) -> list[str]:
    """Return one line a violation: the rule, and the first places where it is broken."""
    assert page.evaluate(SETTLED)
    found = Axe().run(page, options=RULES).response["violations"]
    return [
        f"{rule['id']}: {node['target']} {node['html'][:160]} {node['failureSummary'][:200]}"
        for rule in found
        for node in rule["nodes"][:4]
    ]


TWICE = """() => {
  const ids = [...document.querySelectorAll('[id^="easel-"]')].map((element) => element.id);
  return ids.filter((id, place) => ids.indexOf(id) !== place);
}"""


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_axe_finds_nothing_on_any_tab(visit: Callable[[], Page], mode: str):
    page = visit()
    page.get_by_role("tab", name="Text to image", exact=True).click()
    if mode == "dark":
        page.get_by_role("button", name="Light or dark").click()
        expect(page.locator("body")).to_have_class(re.compile(r"\bdark\b"))
    page.get_by_label("Prompt", exact=True).fill("a lighthouse")
    drawn(page)
    found = {}
    for name in TABS:
        page.get_by_role("tab", name=name, exact=True).click()
        expect(page.get_by_role("tab", name=name, exact=True)).to_have_attribute(
            "aria-selected", "true"
        )
        page.wait_for_load_state("networkidle")
        found[name] = violations(page)
    found["ids that stand twice"] = page.evaluate(TWICE)
    page.locator(".easel-card-picture").first.click()
    expect(page.get_by_role("dialog", name="Picture")).to_be_visible()
    found["the viewer"] = violations(page)
    page.keyboard.press("Escape")
    page.locator("body").press("?")
    expect(page.get_by_role("dialog", name="Keys")).to_be_visible()
    found["the keys"] = violations(page)
    assert {place: lines for place, lines in found.items() if lines} == {}


def test_where_nothing_is_yet_the_page_leads_to_the_first_step(visit: Callable[[], Page]):
    page = visit()
    page.get_by_role("tab", name="Fine-tune", exact=True).click()
    page.get_by_role("button", name="To the Rate tab").click()
    page.get_by_role("button", name="Plan a campaign").click()
    expect(page.get_by_label("Prompts", exact=True)).to_be_visible()
    expect(page.get_by_role("button", name="Begin the campaign")).to_be_visible()
    assert violations(page) == []
