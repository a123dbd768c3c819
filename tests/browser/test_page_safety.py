"""What answers must not do, what the page must not need, and whom it must not leave out."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from page_actions import ask, serve, wait_for_answer
from page_stub import Stub

QUESTION = "Sara reads 15 pages a day for 6 days. How many pages did she read?"


def test_markup_in_an_answer_stays_text(page: Any) -> None:
    ask(page, "hostile")
    wait_for_answer(page)
    text = page.locator(".answer .text")
    assert "<img src=x onerror=" in text.inner_text() and "<script>document.title" in text.inner_text()
    assert text.locator("img, script, style, iframe, object, form").count() == 0
    assert page.locator("body").is_visible()
    assert "owned" not in page.title()


def test_links_lead_to_the_web_only(page: Any) -> None:
    ask(page, "hostile")
    wait_for_answer(page)
    links = page.locator(".answer .text a")
    assert [links.nth(i).get_attribute("href") for i in range(links.count())] == [
        *("https://example.org/a", "https://example.org/p.png")
    ]
    assert links.first.get_attribute("rel") == "noopener noreferrer"
    assert "[click](javascript:document.title='owned')" in page.locator(".answer .text").inner_text()


def test_formulas_are_drawn_and_money_is_not(page: Any) -> None:
    ask(page, "hostile")
    wait_for_answer(page)
    page.locator(".answer math").nth(3).wait_for()
    assert page.locator(".answer menclose msqrt").count() == 1
    assert page.locator(".answer mfrac").count() == 1
    assert "$5 and $10 are money" in page.locator(".answer .text").inner_text()
    assert page.locator(".answer math a, .answer math [href], .answer math [style]").count() == 0


def test_a_hostile_question_and_title_stay_text(page: Any) -> None:
    question = "<img src=x onerror=\"document.title='owned'\"> $$\\frac{"
    ask(page, question)
    wait_for_answer(page)
    assert page.locator(".bubble").inner_text() == question
    assert page.title().startswith("<img src=x")


def test_eight_streams_hold_up_nothing(browser: Any, context: Any) -> None:
    with serve(pace_s=0.05) as stub:
        page = context.new_page()
        page.goto(stub.url)
        page.get_by_role("combobox", name="Streams").select_option("8 streams")
        browser.start_tracing(page=page, categories=["toplevel", "disabled-by-default-devtools.timeline"])
        ask(page, "load")
        page.get_by_role("button", name=re.compile("Stream 1:")).click()  # all that it thinks is drawn
        wait_for_answer(page)
        page.locator(".answer math").first.wait_for()
        trace = json.loads(browser.stop_tracing())["traceEvents"]
        page.close()
        mains = {
            (event["pid"], event["tid"])
            for event in trace
            if event["name"] == "thread_name" and event["args"]["name"] == "CrRendererMain"
        }
        # Of the processor, not of the clock: what else the machine does is not the page's.
        tasks_ms = [
            event["tdur"] / 1000
            for event in trace
            if event["name"] == "RunTask" and event["ph"] == "X" and (event["pid"], event["tid"]) in mains
        ]
        assert len(tasks_ms) > 1000
        assert max(tasks_ms) <= 50


@pytest.fixture(params=["light", "dark"])
def scheme(request: pytest.FixtureRequest) -> Iterator[str]:
    yield request.param


def test_axe_finds_nothing(page: Any, context: Any, axe: str, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    assert _findings(page, axe) == []
    ask(page, "forever")
    page.locator(".lane .tail", has_text="step 3").first.wait_for()
    assert _findings(page, axe) == []
    page.keyboard.press("Escape")
    for question in ("fail", "hostile", QUESTION):
        ask(page, question)
        page.locator("[aria-busy=true]").wait_for(state="detached")
    page.locator(".answer math").first.wait_for()
    page.get_by_role("button", name=re.compile("Stream 2:")).last.click()
    assert _findings(page, axe) == []
    for key in ("s", "k"):
        page.keyboard.press(f"Alt+{key}")
        page.get_by_role("dialog").wait_for()
        assert _findings(page, axe) == []
        page.keyboard.press("Escape")


def _findings(page: Any, axe: str) -> list[str]:
    found = page.evaluate(axe + "; axe.run({ resultTypes: ['violations'] })")
    return [
        f"{violation['id']}: {node['target']} {node['failureSummary']}"
        for violation in found["violations"]
        for node in violation["nodes"]
    ]


def test_360_pixels_are_enough(page: Any) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    for question in ("hostile", QUESTION, "x" * 300):
        ask(page, question)
        page.locator("[aria-busy=true]").wait_for(state="detached")
        page.wait_for_timeout(100)
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        assert page.evaluate(
            "document.querySelector('.chat').scrollWidth <= document.querySelector('.chat').clientWidth"
        )
    page.get_by_role("button", name="Conversations").click()
    page.get_by_role("button", name=re.compile("^New conversation")).click()
    page.get_by_role("heading", name="What should it think about?").wait_for()
    page.get_by_role("button", name="Settings").last.click()
    page.get_by_role("dialog").wait_for()
    assert page.evaluate("document.querySelector('dialog').scrollWidth <= 360")


def test_all_can_be_done_from_the_keyboard(page: Any) -> None:
    page.keyboard.type("What is a prime number?")  # the field has the focus from the start
    page.keyboard.press("Enter")
    wait_for_answer(page)
    page.keyboard.press("Alt+h")
    page.locator(".pager", has_text="2/2").wait_for()
    wait_for_answer(page)
    page.get_by_role("button", name="Answer again").press("Enter")
    page.locator(".pager", has_text="3/3").wait_for()
    wait_for_answer(page)
    assert page.evaluate("document.activeElement.className") == "chat"
    page.keyboard.press("Alt+n")
    page.get_by_role("heading", name="What should it think about?").wait_for()
    assert page.evaluate("document.activeElement.id") == "question"
    page.keyboard.press("Alt+m")
    assert page.get_by_role("radio", name="Chat").is_checked()


def test_the_answer_and_the_vote_alone_are_live(page: Any) -> None:
    ask(page, QUESTION)
    wait_for_answer(page)
    live = page.locator("[aria-live]")
    assert [live.nth(i).evaluate("(node) => node.className") for i in range(live.count())] == [
        "hidden",
        "text",
    ]
    assert live.first.inner_text() == "150 leads with 1.44, 0 streams running"


def test_nothing_moves_for_those_who_asked_for_less_motion(page: Any) -> None:
    ask(page, "forever")
    page.locator(".lane .tail", has_text="step 3").first.wait_for()
    assert page.evaluate("document.getAnimations().length") == 0
    page.emulate_media(reduced_motion="no-preference")
    page.wait_for_timeout(200)
    assert page.evaluate("document.getAnimations().length") > 0
    page.keyboard.press("Escape")


def test_nothing_is_loaded_from_elsewhere_and_no_connection_is_left(context: Any, stub: Stub) -> None:
    page = context.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(stub.url)
    ask(page, "hostile")
    wait_for_answer(page)
    page.locator(".answer math").first.wait_for()
    assert all(url.startswith(stub.url) for url in asked)
    over = len(asked)
    page.wait_for_timeout(1_000)
    assert len(asked) == over
    page.close()
