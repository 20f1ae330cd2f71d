"""corrections.csv of an audit: what is proposed, as corrections that any command takes, the most doubtful first."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from maskcls.data.corrections import COLUMNS, Correction
from maskcls.files import write_csv
from tune.audit.findings import Finding

ALL_COLUMNS = (*COLUMNS, "score", "why")
Row = tuple[str, ...]
"""The cells of one line, by ALL_COLUMNS."""
EARLIER = "there before the audit"


def row_of(finding: Finding) -> Row:
    """The line of a finding; nobody has judged it yet."""
    person, (what, value, file, was) = finding.person, (finding.what, finding.value, finding.file, finding.was)
    return what, person, "", value, file, was, "", f"{finding.score:.4f}", finding.why


def row_of_earlier(correction: Correction) -> Row:
    """The line of a correction that was there before, which a new file would undo or forget without it."""
    values = (getattr(correction, name) for name in COLUMNS)
    return *values, "", EARLIER


def write_proposals(file: Path, findings: Sequence[Finding], earlier: Sequence[Correction]) -> None:
    """Write the corrections that were applied already, then all findings in their order."""
    write_csv(file, ALL_COLUMNS, [*map(row_of_earlier, earlier), *map(row_of, findings)])
