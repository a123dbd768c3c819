"""The page from edgereason's own server, on a scripted engine: its headers, its frames, its controls."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from page_actions import ask, wait_for_answer

from edgereason.engine.scripted import ScriptedEngine
from served import Site, served

FOUR = "2+2 is 4.\n</think>\n\nThe final answer is 4."
ENDLESS = "hm " * 20_000 + "\n</think>\n\nThe final answer is 6."


class SlowEngine(ScriptedEngine):
    """Takes a moment for each step, as engines do."""

    def step(self, feeds: Any) -> Any:
        time.sleep(0.002)
        return super().step(feeds)


@pytest.fixture
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    with served(SlowEngine(request.param)) as site:
        yield site


@pytest.fixture
def page(context: Any, site: Site) -> Iterator[Any]:
    """The page; no policy was violated, and nothing failed unseen."""
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(site.url)
    page.locator(".model").wait_for()
    page.get_by_role("radio", name="Think").check()
    yield page
    assert page.evaluate("window.violations") == []
    assert errors == []


@pytest.mark.parametrize("site", [[FOUR]], indirect=True)
def test_a_question_is_answered_and_thought_about_harder_without_reading_it_again(page: Any) -> None:
    ask(page, "2+2?")
    wait_for_answer(page)
    assert page.locator(".answer .text").inner_text() == "The final answer is 4."
    assert page.locator(".lane").count() == 4
    assert page.get_by_role("button", name=re.compile("answer 4")).count() >= 3  # then the vote is certain
    page.get_by_role("button", name="Think harder").click()
    page.locator(".pager", has_text="2/2").wait_for()
    page.get_by_text("0 prompt tokens encoded").wait_for()


@pytest.mark.parametrize("site", [[ENDLESS]], indirect=True)
def test_thinking_is_closed_by_answer_now(page: Any, site: Site) -> None:
    page.get_by_role("combobox", name="Budget").select_option("max")
    ask(page, "2+2?")
    page.locator(".lane .tail", has_text="hm hm").first.wait_for()
    page.get_by_role("button", name="Answer now").click()
    page.locator(".figures span").first.wait_for()
    assert page.locator(".answer .text").inner_text().startswith("The final answer is")
    spent = int(page.locator(".lane .tokens").first.inner_text().split("/")[0].replace(",", ""))
    assert spent < 4_000  # of 4,096


@pytest.mark.parametrize("site", [[ENDLESS]], indirect=True)
def test_stop_frees_the_engine(page: Any, site: Site) -> None:
    page.get_by_role("combobox", name="Budget").select_option("max")
    ask(page, "2+2?")
    page.locator(".lane .tail", has_text="hm hm").first.wait_for()
    page.keyboard.press("Escape")
    page.get_by_text("Stopped before an answer.").wait_for()
    for _ in range(200):
        if site.service.model.load_figures().running_streams == 0:
            return
        time.sleep(0.01)
    raise AssertionError("streams go on after their reader has gone")


@pytest.mark.parametrize("site", [[FOUR]], indirect=True)
def test_a_refusal_is_shown_in_the_servers_words(page: Any) -> None:
    page.keyboard.press("Alt+s")
    page.get_by_label("Temperature").fill("9")
    page.keyboard.press("Escape")
    ask(page, "2+2?")
    page.get_by_text("temperature must be between 0 and 5").wait_for()
