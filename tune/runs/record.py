"""search.json and comparison.json as typed records: a run's options and data, and each session of a driver with its
versions, commit and hardware.

Keys that this version does not know are read and written again as they are, so that runs of older and newer versions
lose nothing.
"""

from __future__ import annotations

import functools
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from maskcls.errors import CallError, Damaged
from maskcls.machine import EnergyMeter, metered, usable_cores
from tune.runs import output
from tune.runs.local_ray.gpus import local_gpus

if TYPE_CHECKING:
    from tune.runs.folder import RunFolder
    from tune.runs.options import SharedOptions

_PACKAGES = ("maskcls", "ray", "optuna", "torch", "timm", "albumentations", "numpy")
_Typed = TypeVar("_Typed")
NOT_ENDED = "killed, or still running"
"""Why a session ended, until its driver says it."""


class JsonRecord(BaseModel):
    """A part of a record, by the names of its JSON keys or of its fields. Only what was given is written."""

    model_config = ConfigDict(frozen=True, extra="allow", populate_by_name=True)

    def changed(self, **values: object) -> Self:
        """The record with other values, by the names of its fields."""
        return self.model_copy(update=values)


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)  # 0.3 ms and more


def typed(kind: type[_Typed], values: object) -> _Typed:
    """Return the values of a record as a dataclass, or another type. Raises ValueError where one is of another type."""
    found: _Typed = _adapter(kind).validate_python(values)  # type: ignore[arg-type]  # a type is hashable
    return found


def damaged(key: str, error: Exception) -> Damaged:
    """Return the error that a key of search.json holds something else than a search writes there."""
    said = " ".join(str(error).split())[:400]
    return Damaged(
        f"The key {key!r} of search.json can't be read: {said}. Restore search.json from a backup, or remove the key: "
        "a resume makes again what it held."
    )


class Hardware(JsonRecord):
    """What the machine of a driver has."""

    cpus: int = 0
    gpus: int = 0
    machine: str = ""


MANY = 1_000_000
"""Trials, where only the time bounds them."""


class Session(JsonRecord):
    """One driver's work on a run."""

    began: str = ""
    argv: list[str] = []
    """The call: words of the command line, or of a call in Python `run_search` and its options."""
    pid: int | None = None
    """Of the driver's process; in sessions that were begun since there is that note."""
    trials: int = 0
    """Of a search: how many the run was to have."""
    repeats: int = 0
    """Of a comparison: how many the run was to have."""
    parallel: int = 0
    versions: dict[str, str] = {}
    commit: str = ""
    hardware: Hardware = Hardware()
    sampler: str = ""
    scheduler: str = ""
    nodes_aside: list[str] = []
    """Of each node of the cluster that was set aside, why."""
    ended: str = ""
    reason: str = Field("", alias="why")
    """Why it ended."""
    cpu_joules: float | None = None
    """Energy that the driver's machine took, all that ran on it included; None where it does not tell."""
    gpu_joules: float | None = None

    @property
    def is_timed(self) -> bool:
        """Whether the time was all that bounded the trials."""
        return self.trials >= MANY

    @classmethod
    def begun(cls, words: Sequence[str] | None = None, **values: object) -> Session:
        """A session that begins now, on this machine.

        Args:
            words: the call; None: this process's command line.
        """
        argv = sys.argv[1:] if words is None else words
        return cls.model_validate(
            {"began": now(), "argv": argv, "pid": os.getpid(), **environment(), "reason": NOT_ENDED, **values}
        )


class DataRecord(JsonRecord):
    """Which photos and people a run is about."""

    photos: int = 0
    people: int = 0
    holdout_people: int = 0
    digest: str | None = None
    split_digest: str | None = None
    sources_digest: str | None = None
    """Of the tables and the folders from which photos and labels were read; in runs begun since there is that note."""
    files_digest: str | None = None
    """Of the photos' fingerprints (`tune.runs.session`); in runs that were begun since there are these."""


class RunRecord(JsonRecord):
    """What every run says of itself."""

    KEYS: ClassVar[tuple[str, ...]] = ()
    """Of the file, in its order."""

    format: int = 1
    created: str = ""
    call: dict[str, Any] = {}
    """Options, as `tune.runs.options.SharedOptions.to_record` gives them."""
    notes: list[str] = []
    """What was said about how the plan came about."""
    sessions: list[Session] = Field([], alias="parts")
    data: DataRecord = DataRecord()

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON, by its keys. What is None is not there."""
        values = self.model_dump(mode="json", by_alias=True, exclude_unset=True)
        unknown = self.model_extra or {}
        ordered = {key: values[key] for key in (*self.KEYS, *values) if key in values}
        return {key: value for key, value in ordered.items() if value is not None or key in unknown}

    def option(self, name: str, default: _Typed) -> _Typed:
        """Return what the call says of an option; the default where it says nothing. Raises Damaged."""
        value = self.call.get(name)
        if value is None:
            return default
        if not isinstance(value, type(default)):
            raise damaged("call", TypeError(f"{name} is {value!r}"))
        return value

    def flat(self, *without: str) -> dict[str, Any]:
        """For people, without these keys: one dict with dotted keys, and mappings in a list numbered from 1."""
        return _flatten({key: value for key, value in self.to_dict().items() if key not in without})


class JournalMark(JsonRecord):
    """How far a journal had come: its whole lines."""

    lines: int
    n_bytes: int
    sha256: str
    """Of these bytes."""


class SpaceRecord(JsonRecord):
    """The space of a search."""

    name: str = ""
    question: str = ""


class RankedRecord(JsonRecord):
    """A backbone as it was scored before any was trained; None where it was not."""

    backbone: str
    f1: float | None = None
    """Of a linear probe on its features, on people whom the probe left out."""
    logme: float | None = None
    photo_ms: float | None = None
    """Of a photo's way forward through it."""
    training_ms: float | None = None
    """Of a photo in training, its augmentation included; None in runs of earlier versions, too."""
    photos: int | None = None
    """On which it was scored."""


class SearchRecord(RunRecord):
    """search.json."""

    KEYS: ClassVar[tuple[str, ...]] = (
        *("format", "created", "call", "space", "base_recipe", "notes", "has_weights", "fixes_views", "ranking"),
        *("parts", "data", "split_digest", "journal", "choice", "holdout"),
    )

    space: SpaceRecord | None = None
    base_recipe: dict[str, Any] = {}
    """Of trial 0."""
    has_weights: dict[str, bool] | None = None
    """Each backbone that the space asked for when the run began."""
    fixes_views: bool = False
    """Whether views are fixed by `presets.fixed_views`: in runs that were begun since there is that rule."""
    ranking: list[RankedRecord] | None = None
    """The space's backbones, the most promising first; None where they were not ranked."""
    split_digest: str | None = None
    journal: JournalMark | None = None
    """Of the journal when the record was written; in runs that were begun since there is that note."""
    choice: dict[str, Any] | None = None
    """Of finalists, as `tune.selection.record` reads and writes it; None: none were repeated."""
    holdout: dict[str, Any] | None = None
    """Scores on the holdout, which `tune.selection.holdout` reads and writes."""


class ArmRecord(JsonRecord):
    """One way to train and to score."""

    name: str
    treatment: str
    recipe: dict[str, Any]
    recipe_digest: str


class ComparedRecord(JsonRecord):
    """One comparison: its base, then its variants."""

    name: str
    claim: str
    source: str
    arms: list[ArmRecord]


class ComparisonRecord(RunRecord):
    """comparison.json."""

    KEYS: ClassVar[tuple[str, ...]] = (
        *("format", "created", "call", "title", "question", "comparisons", "notes", "parts"),
        *("data", "repeats", "left_out", "equal_time"),
    )

    title: str = ""
    question: str = ""
    comparisons: list[ComparedRecord] = []
    repeats: list[str] = []
    """Digest of each repeat's split."""
    left_out: list[str] = []
    """What the photos left out of the comparisons, and why."""
    equal_time: dict[str, dict[str, int]] = {}
    """Epochs at equal time, by comparison and arm; empty until they are measured."""


@contextmanager
def noted(run: RunFolder, session: Session) -> Iterator[Callable[[str], None]]:
    """Keep the session in the run's record while a driver works on the run.

    The block is given a function, and calls it with the reason why it ends.
    """
    before, meter = run.record().sessions, EnergyMeter()

    def end(reason: str) -> None:
        meter.sample()
        energy = {"cpu_joules": meter.cpu_j, "gpu_joules": meter.gpu_j}
        known = {name: round(joules) for name, joules in energy.items() if joules is not None}
        record = run.record()
        so_far = record.sessions[len(before)] if len(record.sessions) > len(before) else session
        ended = so_far.changed(ended=now(), reason=reason, **known)
        run.write_record(record.changed(sessions=[*before, ended]))

    run.write_record(run.record().changed(sessions=[*before, session]))
    try:
        with metered(meter):
            yield end
    except BaseException as error:
        with suppress(OSError):  # the disk may be what was full
            end("aborted" if isinstance(error, KeyboardInterrupt) else f"failed: {error}")
        if isinstance(error, KeyboardInterrupt):
            print(f"Aborted. What was done is kept; to go on:\n  {run.resume_command}", file=output.errors())
        raise


def refuse_contradictions(stated: SharedOptions, recorded: SharedOptions, run_name: str) -> None:
    """Raises CallError naming every option of a resume that says something else than the run's own options.

    Args:
        stated: the resume's options. Those that it does not state are not looked at, except under --begin-or-resume:
            such a command describes the whole run, its defaults included.
    """
    given_here, moved = stated.model_fields_set, stated.moved(recorded)
    defaults = set(stated.IDENTITY) - set(stated.FOLLOWING) if stated.begin_or_resume else set()
    compared = [name for name in (*stated.IDENTITY, "name") if name in (given_here | defaults) - moved.keys()]
    pairs = [(name, getattr(recorded, name), getattr(stated, name)) for name in compared]
    wrong = [
        f"--{name.replace('_', '-')} is {_shown(own)} in the run, but "
        + (f"{_shown(given)} was given" if name in given_here else f"was not given (default: {_shown(given)})")
        for name, own, given in pairs
        if own != given and (name, given) != ("scale", "auto")
    ]
    if wrong and stated.begin_or_resume:
        raise CallError(
            f"--begin-or-resume found the run {run_name}, which has other settings: {'; '.join(wrong)}. Give the run's "
            "own, or another --name."
        )
    if wrong:
        raise CallError(
            f"--resume {run_name} goes on with the run's own settings: {'; '.join(wrong)}. Leave these options out, "
            "or start a new run."
        )


def _shown(value: object) -> str:
    if value is None or value == ():
        return "not set"
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one mapping with dotted keys; mappings in a list are numbered from 1."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
            value = {str(number): item for number, item in enumerate(value, start=1)}
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def environment() -> dict[str, Any]:
    """Versions, commit and hardware of this machine, ready for JSON."""
    return {
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}},
        "commit": _commit(),
        "hardware": {"cpus": usable_cores(), "gpus": local_gpus(), "machine": platform.machine()},
    }


def now() -> str:
    """This moment, with the time zone."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    """The commit of the code, where it runs from a git checkout."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(git, capture_output=True, text=True, timeout=10, check=False).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""
