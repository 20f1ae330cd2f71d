"""What `tune.audit` does: it gets out-of-fold predictions, finds doubtful labels, and writes CSV and page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import typer

from maskcls.data.corrections import Correction, read_corrections
from maskcls.data.dataset import FaceDataset
from maskcls.reports.explore.photo_looks import look_at
from maskcls.text import command, counted, printable
from tune.audit.confident import check_installed
from tune.audit.duplicates import contradictions
from tune.audit.findings import Finding, find
from tune.audit.folds import train
from tune.audit.options import AuditOptions, check_writable
from tune.audit.page import KINDS, write_page
from tune.audit.predictions import OutOfFold, of_run
from tune.audit.proposals import write_proposals
from tune.runs.folder import SearchRun

CSV, PAGE = "corrections.csv", "audit.html"


@dataclass(frozen=True)
class Audit:
    """What is audited, and where the result goes."""

    out: Path
    predictions: OutOfFold
    data: tuple[str, ...]
    """What names the photos, for the command that goes on: --data and what belongs to it."""
    corrections: str
    """Which corrections the audited labels have, as `read_corrections` takes it."""
    notes: tuple[str, ...]


def run(options: AuditOptions) -> None:
    """The command's work."""
    check_installed()  # before hours of training
    audit = _of_run(options) if options.run is not None else _of_data(options)
    known = read_corrections(audit.corrections)
    rejected = {(row.what, row.path, row.file) for row in known.rejected}
    looks = look_at(audit.predictions.photos["file"].tolist(), progress=True)
    found = find(audit.predictions, contradictions(audit.predictions, looks))
    findings = [finding for finding in found if finding.key not in rejected]
    earlier = (*(known.rows if known.applicable(audit.predictions.photos) else ()), *known.rejected)
    audit.out.mkdir(parents=True, exist_ok=True)
    write_proposals(audit.out / CSV, findings, earlier)
    notes = (*audit.notes, _agreement(audit.predictions), *_about(findings, earlier, options.limit))
    write_page(audit.out / PAGE, audit.predictions, findings, earlier, limit=options.limit, notes=notes)
    typer.echo(printable("\n".join(_summary(audit, findings))))


def _of_run(options: AuditOptions) -> Audit:
    found = SearchRun.open(str(options.run), options.runs)
    record = found.record()
    out = options.out or check_writable(found.path / "audit")
    faces = FaceDataset.load(found.data, options.cache_options)
    data = record.option("data", "")
    notes = (f"Data digest {faces.digest}, split digest {faces.split.digest}.",)
    corrections = record.option("corrections", "published") if data else "none"
    people_from = record.option("people_from", "") or None
    return Audit(out, of_run(found, faces), _data(data or "DIR", people_from), corrections, notes)


def _of_data(options: AuditOptions) -> Audit:
    assert options.out is not None, "AuditOptions refuses --data without --out"
    faces, predictions = train(options, options.out)
    notes = (f"Data digest {faces.digest}.",)
    return Audit(options.out, predictions, _data(options.data, options.people_from), options.corrections, notes)


def _data(data: object, people_from: object) -> tuple[str, ...]:
    return "--data", str(data), *(("--people-from", str(people_from)) if people_from else ())


def _agreement(predictions: OutOfFold) -> str:
    """Say how often the predictions agree with the labels: a proposal is worth no more than its classifiers are."""
    people, masks = predictions.people, predictions.photos["mask"].to_numpy()
    right = (
        predictions.by_photo("mask3").argmax(1) == masks,
        predictions.by_person("gender2").argmax(1) == people["gender"].to_numpy(),
        predictions.by_person("age3").argmax(1) == people["age_group"].to_numpy(),
    )
    mask, gender, age = (f"{share.mean():.0%}" for share in right)
    return (
        f"The predictions agree with the labels as they are for {mask} of the photos' mask states, {gender} of the "
        f"people's genders and {age} of their age groups. Where they seldom agree, most proposals are wrong."
    )


def _about(findings: Sequence[Finding], earlier: Sequence[Correction], limit: int) -> list[str]:
    notes = [
        "A label is doubtful by confident learning (Northcutt, Jiang and Chuang, JAIR 70, 2021), gender and age group "
        "by the mean of a person's photos; two mask photos are, if together they are more probable exchanged; and so "
        "is a label in which two photos differ that are the same or look the same.",
        "The score is one half where the proposed label is as probable as the given one, and 1 where it is certain.",
        "A proposal is a guess of classifiers that learnt from these very labels, other people's. Accept what you see.",
    ]
    if len(findings) > limit:
        notes.append(f"The page has the first {limit:,} of {len(findings):,}; {CSV} has all. --limit shows more.")
    if earlier:
        notes.append(
            f"{counted(len(earlier), 'correction')} that these labels had already, or that were rejected before, come "
            "first in the saved file, so that it can take the place of the former one."
        )
    return notes


def _summary(audit: Audit, findings: Sequence[Finding]) -> list[str]:
    counts = Counter(finding.what for finding in findings)
    kinds = ", ".join(f"{name} {counts[what]:,}" for what, name in KINDS.items())
    page, accepted = audit.out / PAGE, audit.out / "accepted.csv"
    vary = command("tune.compare", *audit.data, "--vary", f"corrections=none,{accepted}")
    return [
        f"{counted(len(findings), 'doubtful label')} of {counted(len(audit.predictions.people), 'person', 'people')} "
        f"({kinds}), the most doubtful first in {audit.out / CSV}",
        f"To judge them with the keyboard, open {page} in a browser, and save what you accept as {accepted}.",
        f"What that buys:\n  {vary}",
    ]
