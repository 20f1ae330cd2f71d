"""What happens in a search or a comparison, as events: with --json each is one line of JSON on stdout.

The table under "Following a run from a program" in docs/guide.md documents every event and key. Within a VERSION,
events and keys may be added; none is taken away, renamed or given another meaning.

As with logging there is one stream for the whole process (`streamed`), because whoever notices something is called by
Ray. Where no stream is open, as in a library's use, `emit` does nothing.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any, ClassVar, TextIO

from maskcls.command_line.signals import SIGNAL_STATUS, signal_of

VERSION = 1


@dataclass(frozen=True)
class Event:
    """Something that happened. Its fields are the keys of its line, beside `event`, `version` and `time`."""

    event: ClassVar[str]


@dataclass(frozen=True)
class RunEvent(Event):
    """A run was begun, or is gone on with."""

    event: ClassVar[str] = "run"
    command: str
    name: str
    path: str
    resumed: bool
    wanted: int | None
    """Trials of a search, in all; None: as many as the time allows. Of a comparison the repeats."""


@dataclass(frozen=True)
class TrialBegun(Event):
    """A trial starts in a worker; again where its worker died."""

    event: ClassVar[str] = "trial_begun"
    trial: str
    origin: str
    overrides: Mapping[str, Any]
    params: Mapping[str, Any]
    epochs: int


@dataclass(frozen=True)
class Epoch(Event):
    """A trial, or another fit, has done an epoch."""

    event: ClassVar[str] = "epoch"
    trial: str | None
    fit: str | None
    """None for a trial of a search."""
    epoch: int
    f1: float | None
    best_f1: float | None
    loss: float | None
    seconds: float


@dataclass(frozen=True)
class TrialEnded(Event):
    """A trial ended, or is left for a resume."""

    event: ClassVar[str] = "trial_ended"
    trial: str
    state: str
    f1: float | None
    best_epoch: int
    epochs: int
    seconds: float
    message: str


@dataclass(frozen=True)
class NodeSetAside(Event):
    """A node of the cluster gets no more work: work keeps failing there, or the node is to leave."""

    event: ClassVar[str] = "node_set_aside"
    node: str
    """Its address."""
    message: str


@dataclass(frozen=True)
class FitBegun(Event):
    """A fit starts that is neither a trial nor a repeat: the winner to its end, or on all people."""

    event: ClassVar[str] = "fit_begun"
    fit: str
    trial: str | None
    repeat: int | None
    label: str
    epochs: int


@dataclass(frozen=True)
class RepeatBegun(FitBegun):
    """A repeat of a finalist starts, or one of a comparison's variant."""

    event: ClassVar[str] = "repeat_begun"


@dataclass(frozen=True)
class FitEnded(Event):
    """A fit of FitBegun ended."""

    event: ClassVar[str] = "fit_ended"
    fit: str
    trial: str | None
    repeat: int | None
    label: str
    state: str
    f1: float | None
    best_epoch: int
    epochs: int
    seconds: float
    message: str


@dataclass(frozen=True)
class RepeatEnded(FitEnded):
    """A repeat of RepeatBegun ended."""

    event: ClassVar[str] = "repeat_ended"


@dataclass(frozen=True)
class ChoiceMade(Event):
    """The repeats ended, and the winner was picked among the finalists."""

    event: ClassVar[str] = "choice"
    winner: str | None
    validation_f1: float | None
    model_validation_f1: float | None
    """Of the model that is handed over: another one than the search's where that stopped the trial early."""
    mean: float | None
    spread: float | None
    finalists: Sequence[Mapping[str, Any]]
    preset: Mapping[str, Any] | None
    gain: Mapping[str, Any] | None
    """Over the preset: n repeats, mean, low and high."""
    reason: str
    remaining: int


@dataclass(frozen=True)
class HoldoutScored(Event):
    """The winner's bundle was scored on the holdout."""

    event: ClassVar[str] = "holdout"
    trial: str
    f1: float
    low: float
    high: float
    people: int
    photos: int
    validation_f1: float | None
    optimism: float | None
    evaluations: int
    models: int
    """How many the bundle averages; more than one of a bag."""


@dataclass(frozen=True)
class VariantCompared(Event):
    """A variant was compared with its base, or the base itself was scored."""

    event: ClassVar[str] = "variant"
    comparison: str
    variant: str
    is_base: bool
    repeats: int
    f1: float | None
    difference: float | None
    low: float | None
    high: float | None
    verdict: str


@dataclass(frozen=True)
class Done(Event):
    """The command ends. Always the last event: it is written when all else, such as Ray's end, is done."""

    event: ClassVar[str] = "done"
    reason: str
    status: int
    remaining: int | None = None
    bundle: str | None = None
    bundle_on_all: str | None = None
    table: str | None = None
    report: str | None = None
    message: str = ""


class _Stream:
    """Writes events as lines, as long as somebody reads them."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._open = True
        self.last: Done | None = None
        """The event that is to be the last one."""

    def write(self, event: Event) -> None:
        if not self._open:
            return
        moment = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        values = {field.name: _finite(getattr(event, field.name)) for field in fields(event)}
        content = {"event": event.event, "version": VERSION, "time": moment, **values}
        try:
            self._file.write(json.dumps(content, allow_nan=False) + "\n")
            self._file.flush()
        except OSError as error:  # the reader is gone, or the disk is full: a run is worth more than its events
            self._open = False
            print(f"No more events are written ({error.strerror}); the run goes on.", file=sys.stderr)


_stream: _Stream | None = None


@contextmanager
def streamed(file: TextIO) -> Iterator[None]:
    """Within the block, write every event to the file. A block that raises an error ends with an event that says so."""
    global _stream
    before, stream = _stream, _Stream(file)
    _stream = stream
    try:
        yield
        if stream.last is not None:
            stream.write(stream.last)
    except BaseException as error:
        stream.write(_failed(error))
        raise
    finally:
        _stream = before


def emit(event: Event) -> None:
    """Write the event, where a stream is open. Never raises for a reader that is gone."""
    if _stream is None:
        return
    if isinstance(event, Done):
        _stream.last = event
    else:
        _stream.write(event)


def _failed(error: BaseException) -> Done:
    """Return the last event of a command that an error ends."""
    if isinstance(error, KeyboardInterrupt):
        return Done("aborted", SIGNAL_STATUS + signal_of(error))
    if isinstance(error, SystemExit):
        return Done("aborted", error.code if isinstance(error.code, int) else 1)
    return Done("failed", getattr(error, "exit_status", 1), message=str(error) or type(error).__name__)


def _finite(value: Any) -> Any:
    """Return the value with None in place of every number that is not finite: JSON has no nan."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return value
