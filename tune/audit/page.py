"""audit.html: the doubtful labels as cards with photos, which a person accepts or rejects with the keyboard.

The page works from the disk, makes no request, and gives its result as a file to save: accepted.csv, which says of each
judged label whether its correction was accepted.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path

import pandas as pd

from maskcls.data.corrections import Correction
from maskcls.data.decoding.decode import decode
from maskcls.data.pool import over_photos
from maskcls.errors import DataError
from maskcls.files import write_atomically
from maskcls.labels import GENDERS, MASKS
from maskcls.reports.explore.photo_looks import encode_jpeg, fitted
from maskcls.reports.page import Html, listed, page, photos, picture, section, tiles
from maskcls.text import counted
from tune.audit.findings import Finding, age_of, file_of
from tune.audit.predictions import OutOfFold
from tune.audit.proposals import ALL_COLUMNS, row_of, row_of_earlier

PHOTO_PX = (210, 280)
"""Width and height of the box that a photo fits in."""
PHOTO_QUALITY = 80
KINDS = {"swap": "mask photos swapped", "mask": "mask state", "gender": "gender", "age": "age group"}


def write_page(
    file: Path,
    predictions: OutOfFold,
    findings: Sequence[Finding],
    earlier: Sequence[Correction],
    *,
    limit: int,
    notes: Iterable[str],
) -> None:
    """Write the page with the first `limit` findings.

    Args:
        earlier: corrections that the audited labels had already.
        notes: sentences on how the audit was made.
    """
    shown = findings[:limit]
    jpegs = _jpegs(predictions.photos, sorted({row for finding in shown for row in finding.rows}))
    cards = [_card(number, finding, predictions.photos, jpegs) for number, finding in enumerate(shown, start=1)]
    how = section("How it was made", "", listed([predictions.source, *notes]))
    parts = [_headline(predictions, findings), _bar(shown, earlier), *cards, how]
    text = (
        "Labels that classifiers contradict which did not train on these people. The photos are inside this file, and "
        "it sends nothing anywhere; whoever gets the file gets the photos."
    )
    made = page("Are these labels right?", text, parts, style=_asset("judge.css"), script=_asset("judge.js"))
    write_atomically(file, made)


def _asset(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _headline(predictions: OutOfFold, findings: Sequence[Finding]) -> Html:
    counts = {what: sum(finding.what == what for finding in findings) for what in KINDS}
    people = len({finding.person for finding in findings})
    shown = [
        ("doubtful labels", f"{len(findings):,}", f"of {counted(people, 'person', 'people')}"),
        *((name, f"{counts[what]:,}", "") for what, name in KINDS.items()),
        ("audited", f"{len(predictions.people):,}", f"people with {counted(len(predictions.photos), 'photo')}"),
    ]
    return tiles(shown, "")


def _bar(shown: Sequence[Finding], earlier: Sequence[Correction]) -> Html:
    """What stays on top: how many are judged, and the result to save. Hidden where scripts do not run."""
    rows = [row_of(finding) for finding in shown]
    digest = hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]
    keys = (("A", "accept"), ("R", "reject"), ("S", "skip"), ("↑", ""), ("↓", "move"), ("D", "save"))
    legend = Html(" ").join(Html("<kbd>{}</kbd> {}").format(key, meaning) for key, meaning in keys)
    return Html(
        '<div class="judging" hidden data-digest="{}" data-columns="{}" data-earlier="{}">'
        '<p role="status"></p><span class="keys">{}</span><button type="button">Save accepted.csv</button></div>'
    ).format(digest, json.dumps(ALL_COLUMNS), json.dumps([row_of_earlier(one) for one in earlier]), legend)


def _card(number: int, finding: Finding, table: pd.DataFrame, jpegs: dict[int, bytes]) -> Html:
    pictures = [picture(jpegs[row], _caption(finding, table, row)) for row in finding.rows if row in jpegs]
    choices = (("accepted", "Accept", "A"), ("rejected", "Reject", "R"), ("skipped", "Skip", "S"))
    buttons = Html("").join(
        Html('<button type="button" value="{}">{} <kbd>{}</kbd></button>').format(*choice) for choice in choices
    )
    return Html(
        '<section class="finding" tabindex="-1" data-row="{}"><h2>{}. {}</h2><p>{}</p>{}<p>{}</p>'
        '<div class="choices" hidden>{}</div></section>'
    ).format(
        json.dumps(row_of(finding)),
        number,
        _title(finding),
        finding.person,
        photos(pictures),
        _reason(finding),
        buttons,
    )


def _title(finding: Finding) -> Html:
    if finding.what == "swap":
        return Html("{} and {}: <b>swapped</b>").format(MASKS[1], MASKS[2])
    name = finding.file if finding.what == "mask" else KINDS[finding.what]
    return Html("{}: {} → <b>{}</b>").format(name, finding.was, finding.value)


def _reason(finding: Finding) -> str:
    return f"Score {finding.score:.2f}: {finding.why}."


def _caption(finding: Finding, table: pd.DataFrame, row: int) -> list[str]:
    """The photo's name, whose it is if it is somebody else's, and the label that it has."""
    gender, mask, person = (table[name].iloc[row] for name in ("gender", "mask", "person"))
    label = MASKS[mask] if finding.what in ("swap", "mask") else f"{GENDERS[gender]}, {_in_years(age_of(table, row))}"
    whose = [] if person == finding.person else [str(person)]
    return [file_of(table, row), *whose, f"labelled {label}"]


def _in_years(age: str) -> str:
    return f"{age} years" if age.isdecimal() else age


def _jpegs(table: pd.DataFrame, rows: Sequence[int]) -> dict[int, bytes]:
    """A small JPEG of each row's photo; those that can't be decoded are left out."""

    def made(file: str) -> bytes | None:
        try:
            return encode_jpeg(fitted(decode(file).rgb, PHOTO_PX), PHOTO_QUALITY)
        except DataError:
            return None

    found = zip(rows, over_photos(made, [str(table["file"].iloc[row]) for row in rows]), strict=True)
    return {row: jpeg for row, jpeg in found if jpeg is not None}
