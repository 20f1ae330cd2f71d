"""The part of a search's page on how it was made: data, split, calls, versions, hardware, time and failures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from maskcls.data.dataset import FaceDataset
from maskcls.data.splits import SIDES
from maskcls.labels import AGES, GENDERS
from maskcls.reports.page import Html, Section, breaking, folded, listed, pairs, part, section, table
from maskcls.stores.cache_options import CacheOptions
from maskcls.text import counted
from tune.durations import duration
from tune.fitting.failures import read_error
from tune.fitting.result import FitResult
from tune.runs.folder import SearchRun
from tune.runs.record import SearchRecord, Session
from tune.runs.session import has_data
from tune.runs.study import Record
from tune.states import TrialState

_FAILURES = (TrialState.FAILED, TrialState.DIVERGED, TrialState.OUT_OF_MEMORY)
_MAX_CHARACTERS = 200
_JOULES_PER_WH = 3600


def sections(run: SearchRun, search: SearchRecord, trials: Sequence[Record]) -> list[Section]:
    """How the search was made, and its whole record."""
    made = _split(run) + _ranking(search) + _sessions(search.sessions) + _time(run, search, trials)
    rest = search.flat("choice", "holdout", "ranking")  # these have parts of their own
    whole = pairs(rest, "search.json", unfolded=False)
    return [
        section("How it was made", _data_text(search), made),
        *_failures(run, trials),
        section("Where this comes from", "The run's own record, search.json.", whole),
    ]


def _data_text(search: SearchRecord) -> str:
    data = search.data
    if not data.photos:
        return ""
    own = search.option("data", "")
    where = own or "faces drawn by a program"
    corrections = f", with the corrections {search.option('corrections', 'published')}" if own else ""
    return (
        f"{counted(data.photos, 'photo')} of {counted(data.people, 'person', 'people')} ({where}{corrections}). Digest "
        f"of the photos and labels: {data.digest}, of the split: {search.split_digest}."
    )


def _split(run: SearchRun) -> Html:
    """People and photos of each side of the split, by gender and age group; nothing of a run without data."""
    if not has_data(run):
        return Html()
    faces = FaceDataset.load(run.data, CacheOptions(run.path))  # no pixels are asked for
    rows: list[list[str | Html]] = []
    for side in SIDES:
        photos = faces.photos.iloc[faces.rows(side)]
        people = photos.drop_duplicates("person")
        counts = [int((people["gender"] == at).sum()) for at in range(len(GENDERS))]
        counts += [int((people["age_group"] == at).sum()) for at in range(len(AGES))]
        rows.append([side, f"{len(people):,}", f"{len(photos):,}", *(f"{count:,}" for count in counts)])
    return part("The split", "", table(["side", "people", "photos", *GENDERS, *AGES], rows))


def _ranking(search: SearchRecord) -> Html:
    """The backbones as they were ranked before any was trained; nothing of a run without such a ranking."""
    if not search.ranking:
        return Html()
    rows: list[list[str | Html]] = [
        [each.backbone, *("–" if n is None else f"{n:.3f}" for n in (each.f1, each.logme, each.photo_ms))]
        for each in search.ranking
    ]
    about = "By a linear probe on features of the untrained backbones, for people whom it left out; points follow it."
    return part("Backbones before training", about, table(["backbone", "probe F1", "LogME", "ms per photo"], rows))


def _sessions(sessions: Sequence[Session]) -> Html:
    """One row per driver: a search that was resumed has several."""
    rows = [
        [
            one.began.replace("T", " ")[:16],
            duration(seconds) if (seconds := session_seconds(one)) else "–",
            f"{one.hardware.cpus} cores, {counted(one.hardware.gpus, 'GPU')}",
            one.commit or "–",
            breaking(", ".join(f"{name} {version}" for name, version in one.versions.items())),
            one.reason,
            " ".join(one.argv),
        ]
        for one in sessions
    ]
    headers = ["began", "took", "machine", "commit", "versions", "ended", "call"]
    return part("The calls", "", table(headers, rows)) if rows else Html()


def session_seconds(one: Session) -> float:
    """How long a driver worked, in seconds; 0 where its end is not known."""
    try:
        return (datetime.fromisoformat(one.ended) - datetime.fromisoformat(one.began)).total_seconds()
    except (ValueError, TypeError):  # TypeError: one of the two lacks its time zone
        return 0.0


def _time(run: SearchRun, search: SearchRecord, trials: Sequence[Record]) -> Html:
    """Where the time went."""
    results = [FitResult.read(folder) for folder in sorted(run.finalists.glob("*")) if folder.name != "splits"]
    fits = [one for one in results if one is not None]
    lines = [
        f"Trials: {duration(sum(trial.seconds for trial in trials))} in {counted(len(trials), 'fit')}, summed over "
        "fits that ran side by side.",
        f"Repeats and other fits after the search: {duration(sum(one.seconds for one in fits))} in "
        f"{counted(len(fits), 'fit')}.",
        f"Drivers, from begin to end: {duration(sum(map(session_seconds, search.sessions)))}.",
        energy(search.sessions),
    ]
    return part("Time and energy", "", listed(lines))


def energy(sessions: Sequence[Session]) -> str:
    """What the drivers' machines said of the energy."""
    parts = [
        (name, sum(joules for joules in values if joules is not None), sum(joules is not None for joules in values))
        for name, values in (
            ("CPUs (RAPL)", [one.cpu_joules for one in sessions]),
            ("GPUs (nvidia-smi)", [one.gpu_joules for one in sessions]),
        )
    ]
    known = [
        f"{joules / _JOULES_PER_WH:,.1f} Wh by the {name} in {n} of {counted(len(sessions), 'session')}"
        for name, joules, n in parts
        if n
    ]
    if not known:
        return "Energy: the machine does not tell it."
    return f"Energy of the driver's machine, all that ran on it included: {'; '.join(known)}."


@dataclass(frozen=True)
class _Kind:
    """Trials that ended badly in the same way."""

    state: TrialState
    line: str
    trials: tuple[str, ...]


def _failures(run: SearchRun, trials: Sequence[Record]) -> list[Section]:
    """Failures by kind, the commonest first, each with its first line and the end of a traceback; none, no section."""
    kinds: dict[tuple[TrialState, str], list[str]] = {}
    for trial in trials:
        if trial.state in _FAILURES:
            line = next(iter(trial.message.splitlines()), "") or "no message"
            kinds.setdefault((trial.state, line[:_MAX_CHARACTERS]), []).append(trial.trial_id)
    if not kinds:
        return []
    found = [_Kind(state, line, tuple(ids)) for (state, line), ids in kinds.items()]
    found.sort(key=lambda one: -len(one.trials))
    rows = [[one.state, str(len(one.trials)), ", ".join(one.trials[:5]), one.line] for one in found]
    details = Html("").join(_traceback(run, one) for one in found)
    note = "Trials that gave no model, by what happened and by the first line of the message."
    return [section("What failed", note, table(["state", "trials", "such as", "first line"], rows) + details)]


def _traceback(run: SearchRun, kind: _Kind) -> Html:
    lines = read_error(run.trial(kind.trials[0]))[-8:]
    if not lines:
        return Html()
    return folded(f"trial {kind.trials[0]}: the end of its traceback", listed(lines))
