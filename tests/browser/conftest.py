"""A real Chromium before a really started studio; nothing outside, nothing on the error console."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    expect,
    sync_playwright,
)

from tests.debian import find_chromium
from tests.diffusion.tiny_model import build_tiny_model
from tests.ui.served import Served, served

PATIENCE = 60_000  # milliseconds; a busy machine is slow, not wrong
ARGUMENTS = (
    "--no-sandbox", "--disable-dev-shm-usage", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-first-run",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
)  # fmt: skip


@dataclass
class Complaints:
    """What no journey may cause."""

    lines: list[str] = field(default_factory=list)

    def watch(self, page: Page) -> None:
        page.on("console", self._hear)
        page.on("pageerror", lambda error: self.lines.append(str(error)))
        page.on("dialog", lambda dialog: self.lines.append(f"dialog: {dialog.message}"))
        page.on("request", self._look)

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.lines.append(f"{message.text} {message.location.get('url', '')}")

    def _look(self, request: object) -> None:
        if not request.url.startswith(("http://127.0.0.1:", "data:", "blob:")):
            self.lines.append(f"outside: {request.url}")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(
            executable_path=find_chromium(), headless=True, args=list(ARGUMENTS)
        )
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One studio for all journeys of a file, with the tiny model."""
    folder = tmp_path_factory.mktemp("browser")
    build_tiny_model(folder / "models" / "tiny")
    (folder / "data").mkdir()
    with served(folder / "data", folder / "models") as running:
        yield running


@pytest.fixture
def complaints() -> Complaints:
    return Complaints()


@pytest.fixture
def context(browser: Browser, complaints: Complaints, tmp_path: Path) -> Iterator[BrowserContext]:
    opened = browser.new_context(viewport={"width": 1280, "height": 800}, color_scheme="light")
    opened.set_default_timeout(PATIENCE)
    yield opened
    for number, page in enumerate(opened.pages):
        page.screenshot(path=tmp_path / f"last-{number}.png")
    opened.close()
    assert complaints.lines == []


@pytest.fixture
def visit(context: BrowserContext, studio: Served, complaints: Complaints) -> Callable[[], Page]:
    """Open the page in one more tab, ready to be used with the tiny model."""

    def opened() -> Page:
        page = context.new_page()
        complaints.watch(page)
        studio.ask("/easel/kept/gallery", "POST", body={"values": {}})  # no journey's search stays
        page.goto(studio.url)
        page.wait_for_selector("html.easel-ready", state="attached")
        page.get_by_role("tab", name="Text to image").click()  # a page opens where it was left
        page.get_by_label("Model", exact=True).click()
        page.get_by_role("option", name="tiny").click()
        expect(page.locator("li[role=option]")).to_have_count(0)  # its list folds slowly
        # The studio answers with the model's own size; an artist looks before drawing.
        expect(page.get_by_label("Width", exact=True)).to_have_value("64", timeout=PATIENCE)
        return page

    return opened
