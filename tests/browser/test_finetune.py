"""Fine-tuning as an artist does it: begin, watch, pause, come back, judge, keep, draw."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Page, expect

from studio.ui.finetune import SHOWN_PAIRS
from tests.browser.test_accessibility import violations
from tests.ui.served import Served

SLOW = 600_000  # milliseconds; training on a busy machine
pytestmark = pytest.mark.timeout(1500)
QUICK = {
    "rank": "2", "updates": "2", "learning_rate": "0.01", "prompts_per_epoch": "2",
    "images_per_prompt": "2", "steps": "3", "guidance_scale": "1", "kl_budget": "9000",
    "diversity_drop": "1",
}  # fmt: skip
PIXELS = """(image) => {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
  canvas.getContext("2d").drawImage(image, 0, 0);
  const bytes = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  return bytes.reduce((sum, byte) => (31 * sum + byte) % 2147483647, 7);
}"""  # a number for what an image shows
NOTE_PAIRS = f"""(box) => {{
  window.pairsShown = [];
  const note = () => {{
    const images = [...box.querySelectorAll("img")];
    if (images.length === 2) window.pairsShown.push(images.map({PIXELS}));
  }};
  note();
  new MutationObserver(note).observe(box, {{ childList: true, subtree: true }});
}}"""
SLIDERS = f"""(boxes) => Promise.all(boxes.map((box) => Promise.all(
  [".easel-before img", ".easel-after"].map((side) => box.querySelector(side)).map(
    (image) => image.decode().then(() => ({PIXELS})(image))))))"""


@pytest.fixture(autouse=True)
def patience() -> Iterator[None]:
    """Wait for what is to come as long as a busy machine needs."""
    expect.set_options(timeout=120_000)
    yield
    expect.set_options(timeout=5_000)


def open_tab(page: Page, name: str = "Fine-tune") -> None:
    page.get_by_role("tab", name=name, exact=True).click()
    expect(page.get_by_role("tab", name=name, exact=True)).to_have_attribute(
        "aria-selected", "true"
    )


def frames(page: Page):
    return page.locator(".easel-film-frame")


def begin(page: Page, name: str, epochs: int, **knobs: str) -> None:
    """Fill the form and start a run that takes seconds."""
    open_tab(page)
    new = page.get_by_role("button", name="+ New run")
    form = page.locator(".easel-run-form")
    expect(form.or_(new).first).to_be_visible()
    if new.is_visible():
        new.click()
    form.locator("textarea[name=prompts]").fill("red apple\ncastle\ncat")
    form.locator("select[name=reward]").select_option("brightness")
    form.locator("select[name=model]").select_option("tiny")
    form.locator("input[name=name]").fill(name)
    form.locator("summary", has_text="Expert").click()
    for algorithm, acts in (("nft", False), ("ppo", True)):  # what does nothing is not offered
        form.locator("select[name=algorithm]").select_option(algorithm)
        expect(form.locator("input[name=kl_weight]")).to_be_visible(visible=acts)
        expect(form.locator("input[name=learning_rate]")).to_be_visible()
    for knob, value in {**QUICK, "epochs": str(epochs), **knobs}.items():
        form.locator(f"input[name={knob}]").fill(value)
    page.get_by_role("button", name="Start training").click()
    expect(page.get_by_role("heading", name=name, exact=True)).to_be_visible()


def judge_all(page: Page) -> set[frozenset[int]]:
    """Answer pairs until there are none left; a key that comes too early is no vote.

    Returns the pairs that were shown, a number for each picture.
    """
    page.get_by_role("button", name="Judge the pairs").click()
    numbers = page.locator(".easel-pair-numbers strong")
    left = page.locator(".easel-pair-frame[data-side=left] img")
    expect(left).to_be_visible()
    page.locator(".easel-pair").evaluate(NOTE_PAIRS)
    for number in range(1, 21):
        expect(left).to_be_visible()
        while numbers.inner_text() == said(number - 1):
            page.keyboard.press("ArrowLeft" if number % 3 else "ArrowRight")
            page.wait_for_timeout(100)
        expect(numbers).to_have_text(said(number))
    shown = page.evaluate("window.pairsShown")
    page.keyboard.press("Escape")
    return {frozenset(pair) for pair in shown}


def reload(page: Page) -> None:
    page.reload()
    page.wait_for_selector("html.easel-ready", state="attached")


def said(votes: int) -> str:
    return f"{votes} {'vote' if votes == 1 else 'votes'}"


def test_a_run_is_watched_paused_left_and_found_again(visit: Callable[[], Page]):
    page = visit()
    begin(page, "Bright", epochs=200)
    expect(frames(page)).not_to_have_count(0, timeout=SLOW)
    page.get_by_role("button", name="Pause", exact=False).click()
    expect(page.locator(".easel-run-list")).to_contain_text("Bright · paused")
    reload(page)
    open_tab(page, "Text to image")
    open_tab(page)
    expect(page.locator(".easel-run-list")).to_contain_text("Bright · paused")
    expect(frames(page)).not_to_have_count(0)
    page.get_by_role("button", name="Go on", exact=True).click()
    expect(frames(page).nth(2)).to_be_attached(timeout=SLOW)
    page.get_by_role("button", name="End it here", exact=False).click()
    expect(page.locator(".easel-run-list")).to_contain_text("Bright · trained", timeout=SLOW)
    expect(page.locator(".easel-plot svg").first).to_have_attribute(
        "aria-label", re.compile(r"Reward: training 0\.\d+, held out 0\.\d+")
    )
    assert violations(page) == []
    page.get_by_role("button", name="Light or dark").click()
    expect(page.locator("body")).to_have_class(re.compile(r"\bdark\b"))
    assert violations(page) == []


def test_a_run_is_judged_blindly_kept_and_drawn_with(visit: Callable[[], Page], studio: Served):
    page = visit()
    begin(page, "Light", epochs=1)
    expect(page.locator(".easel-run-list")).to_contain_text("Light · trained", timeout=SLOW)
    page.get_by_role("button", name="Compare blindly").click()
    expect(page.get_by_role("button", name="Judge the pairs")).to_be_enabled(timeout=SLOW)
    verdict = json.loads(studio.ask("/easel/finetune/state").body)["run"]["verdicts"][0]
    assert (verdict["by_votes"], verdict["by_reward"]) == (None, None)  # not unveiled yet
    judged = judge_all(page)
    expect(page.locator(".easel-unveiled")).to_contain_text("of 20 pairs", timeout=SLOW)
    sliders = page.locator(".easel-comparison-card .easel-slider")
    expect(sliders).to_have_count(SHOWN_PAIRS)  # each handle between pictures that were judged
    beside = {frozenset(pair) for pair in sliders.evaluate_all(SLIDERS)}
    assert len(beside) > SHOWN_PAIRS // 2  # pictures that are no copies of each other
    assert beside <= judged
    base_first = sliders.first.locator("img").evaluate_all("(all) => all.map((i) => i.src)")
    assert [src.rpartition("/")[2] for src in base_first] == ["tuned.png", "base.png"]
    sliders.first.get_by_role("slider", name="Before and after").fill("80")
    expect(sliders.first).to_have_attribute("style", re.compile("--cut: 80%"))
    expect(page.locator(".easel-unveiled")).to_contain_text("By the reward", timeout=SLOW)
    assert violations(page) == []

    page.locator(".easel-fate input[type=range]").fill("0.8")
    page.get_by_role("button", name="Keep", exact=True).click()
    page.locator("#easel-toast").get_by_role("button", name="Draw with it").click()
    expect(page.locator("#easel-adapter-chip")).to_have_text("Light 0.8")
    expect(page.get_by_label("Prompt", exact=True)).to_be_visible()
    page.get_by_label("Prompt", exact=True).fill("a bright lighthouse")
    page.keyboard.press("Control+Enter")
    expect(page.locator(".easel-caption").first).to_contain_text("a bright lighthouse")
    expect(page.locator("html")).not_to_have_class(re.compile("easel-busy"), timeout=SLOW)
    newest = studio.ask("/easel/pictures?limit=1").json()["pictures"][0]
    assert (newest["prompt"], newest["adapters"]) == ("a bright lighthouse", [["Light", 0.8]])

    page.locator("#easel-adapter-chip").click()  # and off again, so that others draw without it
    page.get_by_role("dialog", name="Adapters").get_by_role("checkbox").first.uncheck()
    expect(page.locator("#easel-adapter-chip")).to_have_text("No adapter")
    late = {"turn": 1, "adapters": [{"name": "Light", "sha256": "0" * 64, "strength": 0.8}]}
    page.evaluate("(said) => easelBridge.outcome(said)", json.dumps(late))  # overtaken on its way
    expect(page.locator("#easel-adapter-chip")).to_have_text("No adapter")
    page.keyboard.press("Escape")
    rate_on(page)


def test_a_run_without_a_result_offers_its_last_epoch_and_keeping_another_leaves_that_on_view(
    visit: Callable[[], Page],
):
    page = visit()
    begin(page, "Too far", epochs=1, learning_rate="0.1", kl_budget="0.1")
    expect(page.locator(".easel-health")).to_contain_text("Stopped", timeout=SLOW)
    judge = page.locator(".easel-judge")
    expect(judge).to_contain_text("What epoch 1 draws can be judged, kept or rated nevertheless")
    for epoch in judge.get_by_label("Epoch", exact=True).all():  # and not the base with itself
        assert epoch.locator("option").all_inner_texts() == ["Epoch 1"]

    reload(page)
    begin(page, "Near", epochs=1)
    expect(page.locator(".easel-run-list")).to_contain_text("Near · trained", timeout=SLOW)
    reload(page)
    expect(page.get_by_role("heading", name="Near", exact=True)).to_be_visible()
    page.get_by_role("button", name="Keep", exact=True).click()
    expect(page.locator(".easel-run-list")).to_contain_text("Near · kept")
    expect(page.get_by_role("heading", name="Near", exact=True)).to_be_visible()
    rating = judge.get_by_role("button", name="Rate the new pictures")  # as it is read
    expect(rating).to_be_visible()


def rate_on(page: Page) -> None:
    """Begin the next round, and fill the form of the run after it."""
    open_tab(page)
    more = page.locator(".easel-fate-more")
    expect(more.locator("p")).to_contain_text("it draws at twice the strength")
    more.get_by_text("Rate the new pictures", exact=True).click()
    page.locator("#easel-toast").get_by_role("button", name="To the Rate tab").click()
    card = page.locator(".easel-campaign", has_text="Light, next round")
    expect(card).to_contain_text("tiny against tiny + Light at 1.6, and the latter against itself")
    expect(card.get_by_role("button", name="Start rating")).to_be_enabled()
    card.get_by_role("button", name="Pause").click()  # its pictures need not be drawn
    expect(card.get_by_role("button", name="Resume")).to_be_visible()

    open_tab(page)
    more.get_by_text("Go on from here", exact=True).click()
    form = page.locator(".easel-run-form")
    expect(form.locator("input[name=name]")).to_have_value("Light, next")
    expect(form.locator("select[name=reward]")).to_have_value("taste")  # there are votes now
    expect(form.locator("select[name=start] option:checked")).to_have_text("Light")
    expect(form.locator("textarea[name=prompts]")).to_have_value("red apple\ncastle\ncat")


def test_a_prompt_is_sent_from_a_picture_and_a_run_that_cannot_be_says_why(
    visit: Callable[[], Page], studio: Served
):
    page = visit()
    page.get_by_label("Prompt", exact=True).fill("a lonely cactus")
    page.keyboard.press("Control+Enter")
    expect(page.locator(".easel-caption").first).to_contain_text("a lonely cactus", timeout=SLOW)
    expect(page.get_by_role("toolbar", name="This picture")).to_be_visible(timeout=SLOW)
    page.locator(".easel-tools summary[aria-label^='Send to']").click()
    page.get_by_role("button", name="Fine-tune prompts").click()
    expect(page.locator("#easel-toast")).to_contain_text("In the prompts of the next fine-tuning")
    open_tab(page)
    prompts = page.locator(".easel-run-form textarea[name=prompts]")
    new = page.get_by_role("button", name="+ New run")
    expect(prompts.or_(new).first).to_be_attached()
    expect(prompts).to_have_value(re.compile("a lonely cactus"))
    if new.is_visible():
        new.click()
    expect(prompts).to_be_visible()
    prompts.fill("")
    page.get_by_role("button", name="Start training").click()
    expect(page.locator(".easel-run-form .easel-problem")).to_be_visible()
