"""Waiting for what a page has set going; a drawing may be over before the page has looked."""

from __future__ import annotations

from playwright.sync_api import Page

LOADED = 200_000  # milliseconds: the first drawing of a run imports torch, slowly on a busy machine
STATE = "async () => (await fetch('/easel/state')).json()"
OVER = """async (before) => {
  const { now, queue } = await (await fetch("/easel/state")).json();
  const over = ["done", "failed", "cancelled", "interrupted"].includes(now?.state);
  return over && now.id !== before && queue.length === 0;
}"""


def drawn(page: Page) -> None:
    """Press Ctrl+Enter and wait until the page shows what was drawn."""
    before = page.evaluate(STATE)["now"]
    page.keyboard.press("Control+Enter")
    page.wait_for_function(OVER, arg=before and before["id"], polling=100, timeout=LOADED)
    newest = page.evaluate(STATE)["newest"]
    page.locator(f"#easel-stage img[src$='/thumbnail/{newest}']").first.wait_for(state="attached")
