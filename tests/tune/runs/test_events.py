"""Events as lines: what the guide documents, numbers that JSON lacks, errors, and a reader that goes away."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterator
from dataclasses import fields

import pytest

from maskcls.errors import DataError
from tests.tune.runs.documented_events import documented_keys, read_events
from tune.runs import events
from tune.runs.events import Done, Epoch, Event

EPOCH = Epoch("0001", None, 3, 0.5, 0.5, math.nan, math.inf)


def classes(kind: type[Event] = Event) -> Iterator[type[Event]]:
    for one in kind.__subclasses__():
        yield one
        yield from classes(one)


def lines(file: io.StringIO) -> list[str]:
    return file.getvalue().splitlines(keepends=True)


def test_the_guide_documents_every_event_and_key() -> None:
    assert documented_keys() == {kind.event: [field.name for field in fields(kind)] for kind in classes()}


def test_a_number_that_is_not_finite_is_null() -> None:
    with events.streamed(file := io.StringIO()):
        events.emit(EPOCH)
        events.emit(events.TrialBegun("0001", "sampled", {"lr": math.nan}, {"all": [1.0, -math.inf]}, 3))
    epoch, begun = read_events(lines(file))
    assert (epoch["f1"], epoch["loss"], epoch["seconds"]) == (0.5, None, None)
    assert (begun["overrides"], begun["params"]) == ({"lr": None}, {"all": [1.0, None]})


def test_the_last_event_comes_when_all_else_is_done() -> None:
    with events.streamed(file := io.StringIO()):
        events.emit(Done("finished", 0))
        events.emit(EPOCH)
    assert [event["event"] for event in read_events(lines(file))] == ["epoch", "done"]
    events.emit(EPOCH)
    assert len(lines(file)) == 2, "the stream is closed"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (DataError("photos.csv is damaged."), ("failed", 1, "photos.csv is damaged.")),
        (KeyboardInterrupt(), ("aborted", 130, "")),
        (SystemExit(143), ("aborted", 143, "")),
        (ZeroDivisionError(), ("failed", 1, "ZeroDivisionError")),
    ],
)
def test_an_error_is_the_last_event(error: BaseException, expected: tuple[str, int, str]) -> None:
    file = io.StringIO()

    def failing() -> None:
        with events.streamed(file):
            events.emit(Done("finished", 0))
            raise error

    with pytest.raises(type(error)):
        failing()
    (done,) = read_events(lines(file))
    assert (done["reason"], done["status"], done["message"]) == expected


def test_a_reader_that_goes_away_stops_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    reading, writing = os.pipe()
    file = os.fdopen(writing, "w")
    with events.streamed(file):
        events.emit(EPOCH)
        os.close(reading)
        events.emit(EPOCH)
        events.emit(EPOCH)
    assert capsys.readouterr().err == "No more events are written (Broken pipe); the run goes on.\n"
    with pytest.raises(BrokenPipeError):
        file.close()
