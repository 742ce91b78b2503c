"""Waiting for what a page has set going; a drawing may be over before the page has looked."""

from __future__ import annotations

import time

from playwright.sync_api import Page

LOADED = 200.0  # seconds: the first drawing of a run imports torch, slowly on a busy machine
LOOK_EVERY = 100  # milliseconds
OVER = ("done", "failed", "cancelled", "interrupted")
STATE = "async () => (await fetch('/easel/state')).json()"


def drawn(page: Page) -> None:
    """Press Ctrl+Enter and wait until the page shows what was drawn."""
    before = page.evaluate(STATE)["now"]
    page.keyboard.press("Control+Enter")
    newest = _finished(page, before and before["id"])
    page.locator(f"#easel-stage img[src$='/thumbnail/{newest}']").first.wait_for(state="attached")


def _finished(page: Page, before: str | None) -> int:
    """Wait until a job after `before` is over and nothing waits; return the newest picture."""
    until = time.monotonic() + LOADED
    while time.monotonic() < until:
        state = page.evaluate(STATE)
        now = state["now"]
        if now and now["id"] != before and now["state"] in OVER and not state["queue"]:
            return state["newest"]
        page.wait_for_timeout(LOOK_EVERY)
    raise AssertionError(f"Nothing was drawn within {LOADED:.0f} s: {now}")
