"""What a run shows while it works: a line per finished step, and on a terminal a line for each step that runs."""

import io
import threading

from rich.console import Console

from jobs.engine.progress import Steps


def console(*, is_terminal: bool) -> tuple[Console, io.StringIO]:
    shown = io.StringIO()
    return Console(file=shown, force_terminal=is_terminal, width=100), shown


def two_steps_at_once(steps: Steps) -> None:
    """The second begins while the first runs, and ends after it."""
    has_begun, may_end = threading.Event(), threading.Event()

    def second() -> None:
        with steps.step("credits", "bronze") as step:
            has_begun.set()
            may_end.wait(10)
            step.detail = "7 rows"

    other = threading.Thread(target=second)
    with steps.step("contacts", "bronze") as step:
        other.start()
        assert has_begun.wait(10)
        step.detail = "5 rows"
    may_end.set()
    other.join(10)


def test_steps_may_run_at_once_and_each_ends_with_its_own_line() -> None:
    shown_on, shown = console(is_terminal=False)
    steps = Steps(shown_on)
    two_steps_at_once(steps)
    assert [(step.source, step.detail) for step in steps.finished] == [("contacts", "5 rows"), ("credits", "7 rows")]
    first, second = shown.getvalue().splitlines()
    assert first.startswith("contacts      bronze")
    assert first.endswith("5 rows")
    assert second.startswith("credits       bronze")
    assert steps.seconds("credits") == steps.finished[1].seconds > 0


def test_a_terminal_shows_all_steps_that_run() -> None:
    shown_on, shown = console(is_terminal=True)
    two_steps_at_once(Steps(shown_on))
    assert "contacts      bronze" in shown.getvalue()
    assert "credits       bronze" in shown.getvalue()
    assert "7 rows" in shown.getvalue()


def test_a_quiet_run_shows_nothing() -> None:
    shown_on, shown = console(is_terminal=True)
    two_steps_at_once(Steps(shown_on, quiet=True))
    assert shown.getvalue() == ""
