"""What a person does: ask, watch the race, hurry, think harder, stop, edit, go back."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from page_actions import ask, serve, wait_for_answer
from page_stub import ANSWER, Stub

QUESTION = (
    "Sara reads 15 pages a day for 6 days and then 20 pages a day for 3 days. How many pages did she read?"
)


def test_streams_race_and_the_answer_is_shown(page: Any, stub: Stub) -> None:
    ask(page, QUESTION)
    wait_for_answer(page)
    lanes = page.locator(".lane")
    assert lanes.count() == 4
    assert [lanes.nth(i).get_attribute("class").split()[1] for i in range(4)] == [
        *("ended", "ended", "ended", "cancelled")
    ]
    assert "winner" in lanes.nth(0).get_attribute("class")
    assert page.get_by_role("button", name="Stream 2: answer 130, score 0.21").is_visible()
    assert page.locator(".tally li").first.inner_text().split() == ["150", "1.44"]  # 0.70 + 0.74
    assert page.get_by_role("meter", name="Probability that thinking helps").get_attribute(
        "aria-valuetext"
    ) == ("0.64, thinks from 0.50 on")
    assert page.locator(".route .figure").inner_text() == "p(think) 0.64 ≥ 0.50"
    assert page.locator(".answer .text strong").inner_text() == "150"
    assert page.locator(".answer .text math").count() == 3
    figures = page.locator(".figures").inner_text()
    for figure in ("70.4 tok/s", "first token 0.33 s", "4.3 s", "4.3 MB KV", "54 prompt tokens encoded"):
        assert figure in figures
    assert stub.asked[0]["messages"] == [{"role": "user", "content": QUESTION}]
    assert stub.asked[0]["streams"] == 4 and stub.asked[0]["effort"] == "medium"


def test_a_bar_shows_the_tokens_of_its_budget(page: Any) -> None:
    ask(page, QUESTION)
    wait_for_answer(page)
    bar = page.get_by_role("meter", name="Budget of stream 1")
    spent = int(page.locator(".lane .tokens").first.inner_text().split("/")[0])
    assert bar.get_attribute("aria-valuetext") == f"{spent} of 160 tokens"
    assert bar.get_attribute("aria-valuenow") == str(round(100 * spent / 160))


def test_a_budget_in_seconds_is_a_bar_in_seconds(page: Any, stub: Stub) -> None:
    page.get_by_role("combobox", name="Budget").select_option("2 s")
    ask(page, "forever")
    # A token or so by now, of 400, but half of the time.
    while int(page.get_by_role("meter", name="Budget of stream 1").get_attribute("aria-valuenow")) <= 50:
        page.wait_for_timeout(50)
    assert " of 2 s" in page.locator(".progress").inner_text()
    page.get_by_role("button", name="Stop").first.click()
    assert stub.asked[0]["budget"] == "2s" and "effort" not in stub.asked[0]


def test_answer_now_closes_the_thinking(page: Any) -> None:
    ask(page, "forever")
    page.locator(".lane .tail", has_text="step 3").first.wait_for()
    page.get_by_role("button", name="Answer now").click()
    page.get_by_text("The final answer is 7.").wait_for()
    assert page.locator(".lane .why").first.inner_text() == "closed by the budget"


def test_answer_now_is_a_key_too(page: Any) -> None:
    ask(page, "forever")
    page.locator(".lane .tail", has_text="step 3").first.wait_for()
    page.keyboard.press("Alt+a")
    page.get_by_text("The final answer is 7.").wait_for()


def test_think_harder_asks_the_same_with_raised_options_and_encodes_nothing(page: Any, stub: Stub) -> None:
    ask(page, QUESTION)
    wait_for_answer(page)
    page.get_by_role("button", name="Think harder").click()
    page.get_by_text("0 prompt tokens encoded").wait_for()
    first, second = stub.asked
    assert second["messages"] == first["messages"]
    assert (second["effort"], second["mode"], second["streams"]) == ("high", "think", first["streams"])
    assert page.locator(".pager").inner_text() == "2/2"
    page.get_by_role("button", name="Earlier answer").click()
    page.get_by_text("54 prompt tokens encoded").wait_for()


def test_stop_ends_the_request_and_keeps_what_was_said(page: Any, stub: Stub) -> None:
    ask(page, "forever")
    page.locator(".lane .tail", has_text="step 3").first.wait_for()
    page.keyboard.press("Escape")
    page.get_by_text("Stopped before an answer.").wait_for()
    while not stub.cut:  # the server notices at its next frame; the test's own timeout bounds this
        page.wait_for_timeout(20)
    assert stub.cut == [stub.asked[0]["id"]]
    page.get_by_role("button", name=re.compile("Stream 1")).click()
    assert "step 1 of thinking" in page.get_by_role("group", name="Thinking of stream 1").inner_text()


def test_the_next_question_carries_the_answers_without_the_thinking(page: Any, stub: Stub) -> None:
    ask(page, QUESTION)
    wait_for_answer(page)
    ask(page, "What is a prime number?")
    wait_for_answer(page)
    assert stub.asked[1]["messages"] == [
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": ANSWER},
        {"role": "user", "content": "What is a prime number?"},
    ]
    assert page.locator(".turn").last.locator(".route > div").inner_text().split("\n") == [
        "Chats",
        "p(think) 0.12 < 0.50",
    ]


def test_an_edited_question_replaces_what_came_after_it_and_can_be_undone(page: Any, stub: Stub) -> None:
    ask(page, QUESTION)
    wait_for_answer(page)
    ask(page, "What is a prime number?")
    wait_for_answer(page)
    page.locator(".turn").first.hover()
    page.get_by_role("button", name="Edit the question").first.click()
    page.get_by_role("textbox", name="Edit the question").fill("And now?")
    page.get_by_role("textbox", name="Edit the question").press("Enter")
    page.locator(".turn").nth(1).wait_for(state="detached")
    wait_for_answer(page)
    assert stub.asked[2]["messages"] == [{"role": "user", "content": "And now?"}]
    page.get_by_role("button", name="Undo").click()
    page.locator(".turn").nth(1).wait_for()
    assert page.locator(".bubble").all_inner_texts() == [QUESTION, "What is a prime number?"]


def test_answer_again_adds_an_answer_with_the_settings_of_now(page: Any, stub: Stub) -> None:
    ask(page, QUESTION)
    wait_for_answer(page)
    page.get_by_role("combobox", name="Streams").select_option("2 streams")
    page.get_by_role("button", name="Answer again").click()
    page.locator(".pager", has_text="2/2").wait_for()
    wait_for_answer(page)
    assert [body["streams"] for body in stub.asked] == [4, 2]


def test_conversations_are_there_after_a_reload(page: Any) -> None:
    ask(page, QUESTION)
    wait_for_answer(page)
    page.reload()
    wait_for_answer(page)
    assert page.locator(".bubble").inner_text() == QUESTION
    page.get_by_role("button", name="New conversation").click()
    page.get_by_role("heading", name="What should it think about?").wait_for()
    page.get_by_role("button", name=re.compile("^Sara reads")).first.click()
    assert page.locator(".answer .text strong").inner_text() == "150"


def test_without_the_server_conversations_can_be_read_and_it_is_found_again(page: Any, context: Any) -> None:
    ask(page, QUESTION)
    wait_for_answer(page)
    page.get_by_role("button", name="New conversation").click()
    context.set_offline(True)
    ask(page, "Anyone there?")
    page.locator(".banner").wait_for()
    assert "can’t be reached" in page.locator(".answer .problem").inner_text()
    page.get_by_role("button", name=re.compile("^Sara reads")).click()
    assert page.locator(".answer .text strong").inner_text() == "150"
    context.set_offline(False)
    page.get_by_role("button", name="Try again").click()
    page.locator(".banner").wait_for(state="detached")


def test_a_deleted_conversation_can_be_had_back(page: Any) -> None:
    ask(page, QUESTION)
    wait_for_answer(page)
    page.get_by_role("button", name=re.compile("^Delete “Sara")).click()
    page.get_by_text("Conversations stay on this device.").wait_for()
    page.get_by_role("button", name="Undo").click()
    page.get_by_role("button", name=re.compile("^Sara reads")).first.click()
    assert page.locator(".bubble").inner_text() == QUESTION


def test_a_conversation_is_exported_as_markdown_and_as_json(page: Any) -> None:
    ask(page, QUESTION)
    wait_for_answer(page)
    with page.expect_download() as markdown:
        page.get_by_role("button", name="Export").click()
    text = Path(markdown.value.path()).read_text()
    assert markdown.value.suggested_filename.endswith(".md")
    assert f"## {QUESTION}" in text and ANSWER.strip() in text
    with page.expect_download() as everything:
        page.get_by_role("button", name="Export").click(modifiers=["Shift"])
    kept = json.loads(Path(everything.value.path()).read_text())
    assert kept["turns"][0]["answers"][0]["streams"][1]["end"]["answer"] == "130"


def test_an_error_in_the_stream_is_shown_beside_what_was_said(page: Any) -> None:
    ask(page, "fail")
    page.get_by_text("The engine failed: out of memory.").wait_for()
    assert "Half an" in page.locator(".answer .text").inner_text()
    page.get_by_text("The vote fell back to majority.").wait_for()


def test_a_connection_that_breaks_off_is_said(page: Any) -> None:
    ask(page, "break off")
    page.get_by_text("before the answer was complete").wait_for()


def test_an_empty_answer_is_said(page: Any) -> None:
    ask(page, "nothing")
    page.get_by_text("The model said nothing.").wait_for()


def test_a_refusal_says_when_to_try_again(page: Any) -> None:
    ask(page, "busy")
    page.get_by_text("32 requests are waiting. Try again in 7 s.").wait_for()


def test_split_characters_are_put_together(page: Any) -> None:
    ask(page, "emoji")
    page.locator(".answer .text", has_text="party 🎉🚀").wait_for()


def test_the_key_is_asked_for_and_kept_for_the_tab(context: Any) -> None:
    with serve(pace_s=0.005, key="secret") as stub:
        page = context.new_page()
        page.goto(stub.url)
        field = page.get_by_label("API key")
        field.fill("wrong")
        page.get_by_role("button", name="Use this key").click()
        page.get_by_text("did not accept this key").wait_for()
        field.fill("secret")
        page.get_by_role("button", name="Use this key").click()
        page.get_by_role("dialog").wait_for(state="detached")
        page.reload()
        ask(page, "What is a prime number?")
        wait_for_answer(page)
        assert page.evaluate("JSON.stringify(localStorage)").find("secret") == -1
        assert page.evaluate("window.violations") == []
        page.close()


def test_a_server_that_still_loads_is_waited_for(page: Any, stub: Stub) -> None:
    stub.is_loading = True
    page.reload()
    page.get_by_text("The model is being loaded.").wait_for()
    stub.is_loading = False
    page.locator(".banner").wait_for(state="detached")
    assert page.locator(".model").inner_text() == "qwen2.5-coder-0.5b-think"


def test_settings_are_sent_and_kept(page: Any, stub: Stub) -> None:
    page.keyboard.press("Alt+s")
    page.get_by_label("Temperature").fill("0.3")
    page.get_by_label("Seed").fill("7")
    page.get_by_label("Vote").select_option("majority")
    page.get_by_label("Stands before every conversation").fill("Be brief.")
    page.keyboard.press("Escape")
    page.reload()
    ask(page, "What is a prime number?")
    wait_for_answer(page)
    sent = stub.asked[0]
    assert (sent["temperature"], sent["seed"], sent["vote"], sent["system"]) == (
        0.3,
        7,
        "majority",
        "Be brief.",
    )
