"""The uses of a holdout: which bundles were scored on the people whom no trial has seen.

Each use makes the best of the scores there more optimistic, whichever run or command it came from. So uses are counted
by the digests of photos and split, in `holdout-uses.jsonl` in the folder of all runs, one JSON object per line. A
bundle that is scored again gives the same score, and counts once.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from maskcls.errors import Damaged
from maskcls.files import FileKind, parse_object
from maskcls.text import counted, first

log = logging.getLogger("maskcls")

USES_FILE = FileKind("one JSON object per line, a use of a holdout", "Restore it from a backup, or move it away.")
USES = "holdout-uses.jsonl"
EVALUATE = "maskcls.evaluate"
"""Stands for the name of a run where that command scored the bundle."""
_NOT_DIGESTED = ("created", "versions", "scores", "holdout_hashes", "calibration", "onnx")
"""Keys of bundle.json that do not change which class the bundle predicts."""
_OF_THE_DECISION = ("tau", "log_prior")
"""What of the decision rule changes it."""
_SAME_FORMATS = {4: 3, 5: 3}
"""Format versions in which the same bundle is the same as in an earlier one, so that it is counted once."""
_NAMED = 4


@dataclass(frozen=True)
class HoldoutUse:
    """One bundle that was scored on a holdout, or a comparison that tested its people."""

    data: str
    """Digest of the photos."""
    split: str
    """Digest of the split."""
    what: str
    """Digest of the bundle, or the comparison's name."""
    run: str
    """Name of the run."""
    when: str


def read_uses(runs: Path, data: str, split: str) -> list[HoldoutUse]:
    """The uses that are noted of the holdout with these digests, oldest first; lines that are damaged are left out."""
    try:
        lines = USES_FILE.whole_lines(runs / USES)
    except Damaged as error:
        log.warning("Uses of the holdout that other commands noted are not counted. %s", error)
        return []
    return [use for use in map(_use_of, lines) if use is not None and (use.data, use.split) == (data, split)]


def note_uses(runs: Path, uses: Iterable[HoldoutUse]) -> None:
    """Add the uses of which none of the same bundle is noted. Raises OSError where the folder cannot be written."""
    for use in uses:
        if use.what not in {one.what for one in read_uses(runs, use.data, use.split)}:
            if (runs / USES).exists() and not (runs / USES).is_file():  # to open a named pipe would wait
                raise OSError(errno.EINVAL, "It is no regular file", str(runs / USES))
            # One write of one line, so that two commands do not mix theirs.
            with (runs / USES).open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(use)) + "\n")


def different(uses: Iterable[HoldoutUse]) -> list[HoldoutUse]:
    """The first use of each bundle, oldest first."""
    found: dict[str, HoldoutUse] = {}
    for use in sorted(uses, key=lambda one: one.when):
        found.setdefault(use.what, use)
    return list(found.values())


def describe(uses: Iterable[HoldoutUse]) -> str:
    """A sentence on how many times the holdout was used, for each use weakens the next score."""
    found = different(uses)
    times = counted(len(found), "time")
    if len(found) < 2:
        return f"The holdout has been used {times}."
    names = list(dict.fromkeys(use.run for use in found))
    where = f", in {first(names, _NAMED)}" if len(names) > 1 else ""
    return f"The holdout has been used {times}{where}: the best of those scores is too high again."


def bundle_digest(manifest: Mapping[str, Any]) -> str:
    """12 hex digits, the same for bundles of the same weights, recipes and people, whenever they were exported."""
    # The weights are in it by the SHA-256 of their files.
    kept = {key: value for key, value in manifest.items() if key not in _NOT_DIGESTED}
    decision = kept.pop("decision", None)
    if decision:  # without one, the bundle is what it was in a format that had none
        kept["decision"] = {key: decision.get(key) for key in _OF_THE_DECISION}
    kept["format_version"] = _SAME_FORMATS.get(kept["format_version"], kept["format_version"])
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:12]


def _use_of(line: bytes) -> HoldoutUse | None:
    try:
        content = parse_object(line)
        return HoldoutUse(**{field.name: str(content[field.name]) for field in fields(HoldoutUse)})
    except (ValueError, KeyError, TypeError):
        return None
