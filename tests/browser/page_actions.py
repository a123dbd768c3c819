"""What the browser tests do again and again."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from page_stub import Stub


@contextmanager
def serve(**options: Any) -> Iterator[Stub]:
    """A scripted server while a test runs."""
    with Stub(**options) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def ask(page: Any, question: str) -> None:
    """Writes a question and sends it, as people do."""
    field = page.get_by_role("textbox", name="Question", exact=True)
    field.fill(question)
    field.press("Enter")


def wait_for_answer(page: Any) -> None:
    """Until the last answer is complete."""
    page.locator(".turn").last.locator(".figures span").first.wait_for()
