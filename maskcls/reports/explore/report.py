"""The exploration of a folder of photos as one page, which needs no other file and no network, and as PNG files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

from maskcls.data.near_duplicates import Pair, by_people, closest_beyond
from maskcls.errors import CallError
from maskcls.files import replacing
from maskcls.labels import AGES, CLASS_NAMES, GENDERS, N_CLASSES, UNKNOWN
from maskcls.reports.explore.contact_sheets import PHOTOS, captions, chosen, sheet
from maskcls.reports.explore.facts import Facts
from maskcls.reports.explore.plots import PLOTS, drawn, overview
from maskcls.reports.page import (
    Html,
    folded,
    grid,
    listed,
    page,
    pair,
    paragraph,
    photos,
    picture,
    section,
    table,
    tiles,
)
from maskcls.text import counted

PAGE, OVERVIEW = "explore.html", "overview.png"
MAX_PROBLEMS, MAX_GROUPS, MAX_PAIRS, CLOSEST = 200, 30, 30, 12
"""How many of each the page shows; all are counted."""


def check_writable(out: Path, *, overwrite: bool) -> None:
    """Raise CallError where `write` would refuse the folder; called before the photos are read."""
    parent = next(parent for parent in out.absolute().parents if parent.exists())
    if not parent.is_dir():
        raise CallError(f"--out {out}: {parent} is a file, so no folder can be made under it. Name a new folder.")
    if not out.exists():
        return
    if not out.is_dir():
        raise CallError(f"--out {out} is a file. Name a new folder.")
    if (out / PAGE).is_file() and not overwrite:
        raise CallError(f"--out {out} holds an exploration already. Name a new folder, or give --overwrite.")
    if not (out / PAGE).is_file() and any(out.iterdir()):
        raise CallError(f"--out {out} is not empty and holds no exploration (it has no {PAGE}). Name a new folder.")


def write(facts: Facts, out: Path) -> list[Path]:
    """Write the page and then the PNG files into a folder, each whole or not at all; return them, the page first.

    Those of an earlier exploration are replaced; other files in the folder stay.
    """
    out.mkdir(parents=True, exist_ok=True)
    rows = {class_: chosen(facts.photos, class_) for class_ in range(N_CLASSES)}
    written = []
    for name, content in _files(facts, rows):
        with replacing(out / name) as stream:
            stream.write(content)
        written.append(out / name)
    for class_, shown in rows.items():
        if not shown:
            (out / _sheet_name(class_)).unlink(missing_ok=True)
    return written


def _files(facts: Facts, rows: Mapping[int, Sequence[int]]) -> Iterator[tuple[str, bytes]]:
    plots = {plot.name: drawn(plot, facts) for plot in PLOTS}
    yield PAGE, _page(facts, rows, {name: svg for name, (svg, _) in plots.items()}).encode()
    yield OVERVIEW, overview([png for _, png in plots.values()])
    for name, (_, png) in plots.items():
        yield f"{name}.png", png
    thumbnails = [look.thumbnail for look in facts.looks]
    for class_, shown in rows.items():
        if shown:
            yield _sheet_name(class_), sheet(facts.photos, thumbnails, class_, shown)


def _sheet_name(class_: int) -> str:
    return f"class-{class_:02d}.png"


def summary(facts: Facts) -> list[str]:
    """Return the facts in a few lines for a terminal."""
    people, counts = facts.people, Counter(facts.photos["label"].tolist())
    genders, groups = Counter(people["gender"].tolist()), Counter(people["age_group"].tolist())
    least = min(range(N_CLASSES), key=lambda class_: counts[class_])
    pairs = len(by_people(facts.near.across, facts.persons))
    return [
        f"{counted(len(people), 'person', 'people')}, {counted(len(facts.photos), 'photo')}",
        "  gender      " + ", ".join(_counts(GENDERS, genders)),
        "  age group   " + ", ".join(_counts(AGES, groups)),
        *_gaps(facts),
        f"  classes     the rarest is {least} ({CLASS_NAMES[least]}): {counted(counts[least], 'photo')}",
        f"  problems    {len(facts.problems):,}, photos that can't be decoded {facts.n_undecodable:,}",
        f"  identical   {len(facts.identical_across):,} under several people, "
        f"{len(facts.identical_within):,} within a person",
        f"  alike       {counted(pairs, 'pair')} of people, "
        f"{counted(facts.near.n_within, 'pair')} of photos within a person",
    ]


def _counts(names: Sequence[str], counts: Mapping[int, int]) -> list[str]:
    unknown = [f"not known: {counts[UNKNOWN]:,}"] if counts.get(UNKNOWN) else []
    return [f"{name}: {counts.get(index, 0):,}" for index, name in enumerate(names)] + unknown


def _gaps_text(facts: Facts) -> list[str]:
    return [f"{line.split(maxsplit=1)[1]}." for line in _gaps(facts)]


def _gaps(facts: Facts) -> list[str]:
    """Return a line on photos that have no class, because a label is not known; none where all have one."""
    missing = {name: int((facts.photos[name] == UNKNOWN).sum()) for name in ("mask", "gender", "age_group")}
    lacking = int((facts.photos["label"] == UNKNOWN).sum())
    parts = [f"{name.replace('_', ' ')} of {count:,}" for name, count in missing.items() if count]
    return [f"  gaps        {counted(lacking, 'photo')} without all labels: {', '.join(parts)}"] if lacking else []


def _page(facts: Facts, rows: Mapping[int, Sequence[int]], plots: Mapping[str, Html]) -> Html:
    sections = [
        _headline(facts),
        section(
            "People", _corrections(facts), grid([plots[name] for name in ("gender", "race", "age-groups", "ages")])
        ),
        section(
            "Classes",
            " ".join(["Mask state, gender and age group together.", *_gaps_text(facts)]),
            grid([plots["classes"], _class_table(facts)]),
        ),
        section(
            "Photos", "", grid([plots[name] for name in ("photos-per-person", "sizes", "file-types", "brightness")])
        ),
        _oddities(facts),
        *_identical(facts),
        _alike(facts, plots["nearest"]),
        _contact_sheets(facts, rows),
    ]
    return page(f"Photos of {facts.name}", f"{len(facts.photos):,} labelled photos, each decoded once.", sections)


def _headline(facts: Facts) -> Html:
    counts = Counter(facts.photos["label"].tolist())
    least, most = (order(range(N_CLASSES), key=lambda class_: counts[class_]) for order in (min, max))
    pairs = by_people(facts.near.across, facts.persons)
    shown = [
        ("people", f"{len(facts.people):,}", facts.rows),
        ("photos", f"{len(facts.photos):,}", f"{facts.n_undecodable:,} more can't be decoded"),
        (
            "rarest class",
            f"{counts[least]:,}",
            f"photos of {least} ({CLASS_NAMES[least]}); {counts[most]:,} of {most} ({CLASS_NAMES[most]})",
        ),
        (
            "identical photos",
            f"{len(facts.identical_across):,}",
            f"under several people; {len(facts.identical_within):,} within a person",
        ),
        (
            "near-duplicates",
            f"{len(pairs):,}",
            f"pairs of people; {facts.near.n_within:,} pairs of photos within a person",
        ),
        ("problems", f"{len(facts.problems):,}", "of rows, names and photos"),
    ]
    return tiles(shown, "")


def _corrections(facts: Facts) -> str:
    if not facts.corrected:
        return f"As {facts.source} has it; no label was corrected."
    people = facts.photos["person"].iloc[facts.corrected].nunique()
    changed = f"{counted(len(facts.corrected), 'photo')} of {counted(people, 'person', 'people')}"
    return f"With the corrections ({facts.corrections}), which changed the labels of {changed}. The photos' names stay."


def _class_table(facts: Facts) -> Html:
    groups = facts.photos.groupby("label")
    n_photos, n_people = groups.size(), groups["person"].nunique()
    cells = [
        [
            str(class_),
            name,
            f"{n_photos.get(class_, 0):,}",
            f"{n_photos.get(class_, 0) / len(facts.photos):.1%}",
            f"{n_people.get(class_, 0):,}",
        ]
        for class_, name in enumerate(CLASS_NAMES)
    ]
    return table(["class", "name", "photos", "share", "people"], cells)


def _oddities(facts: Facts) -> Html:
    """Return everything that is wrong, or only strange."""
    conversions = Counter(name for look in facts.looks for name in look.conversions)
    twice = [f"id {id_}: {', '.join(paths)}" for id_, paths in facts.shared_ids.items()]
    lines = [problem.message for problem in facts.problems[:MAX_PROBLEMS]]
    if len(facts.problems) > MAX_PROBLEMS:
        lines.append(f"… and {len(facts.problems) - MAX_PROBLEMS:,} more, which `python -m maskcls.check` lists.")
    parts = [
        folded(counted(len(facts.problems), "problem"), listed(lines), unfolded=True) if lines else Html(),
        folded(
            f"{counted(len(twice), 'id')} of several people: they are distinguished by their folder",
            listed(twice),
            unfolded=True,
        )
        if twice
        else Html(),
        listed(
            [
                *facts.notes,
                *(
                    f"{counted(count, 'photo')}: {name}, converted when read."
                    for name, count in sorted(conversions.items())
                ),
            ]
        ),
    ]
    content = Html("").join(parts)
    text = (
        "Rows, names and photos that training would refuse, and what is only worth knowing."
        if content
        else "Nothing was found."
    )
    return section("What is wrong or strange", text, content)


def _identical(facts: Facts) -> Iterator[Html]:
    """Yield photos that are equal byte for byte, one picture for each."""
    for groups, title, text in (
        (
            facts.identical_across,
            "Identical photos under several people",
            "Byte for byte the same file. These people go to one side of every split together; "
            "where their labels differ, one is wrong.",
        ),
        (facts.identical_within, "Identical photos of one person", "Byte for byte the same file under two names."),
    ):
        if groups:
            cards = [
                picture(facts.looks[rows[0]].thumbnail, [_label(facts, row) for row in rows])
                for rows in groups[:MAX_GROUPS]
            ]
            yield section(title, text + _more(len(groups), MAX_GROUPS), photos(cards))


def _alike(facts: Facts, plot: Html) -> Html:
    near = facts.near
    pairs = by_people(near.across, facts.persons)
    text = (
        "Each photo has a hash of 255 bits of what is seen (DCT of its grey values). Two photos up to "
        f"{near.max_bits} bits apart count as near-duplicates: a copy that was recompressed, resized, made grey or "
        "somewhat brighter is found, one that was cropped by 4 % a side or mirrored is not. The plot shows how far "
        "each photo is from the nearest one of anybody else: where it comes close to the line, look at the pairs, and "
        "do not trust the count. Identical photos are not counted here."
    )
    content = grid([plot, paragraph(text)])
    if pairs:
        cards = [_pair(facts, each, f"{counted(count, 'pair')} alike") for each, count in islice(pairs, MAX_PAIRS)]
        title = f"{counted(len(pairs), 'pair')} of people, the closest photos of each.{_more(len(pairs), MAX_PAIRS)}"
        content += folded(title, photos(cards), unfolded=True)
    if near.within:
        cards = [_pair(facts, each) for each in near.within[:MAX_PAIRS]]
        content += folded(
            f"{counted(near.n_within, 'pair')} within one person.{_more(near.n_within, MAX_PAIRS)}",
            photos(cards),
            unfolded=True,
        )
    beyond = closest_beyond(near, facts.persons, CLOSEST)
    if beyond:
        cards = [_pair(facts, each) for each in beyond]
        content += folded(
            f"The {len(cards)} closest pairs of people beyond the line, for comparison", photos(cards), unfolded=True
        )
    return section("Near-duplicates", "", content)


def _pair(facts: Facts, both: Pair, remark: str = "") -> Html:
    pictures = [picture(facts.looks[row].thumbnail, [_label(facts, row)]) for row in (both.first, both.second)]
    return pair(pictures, f"{counted(both.bits_apart, 'bit')} apart" + (f", {remark}" if remark else ""))


def _label(facts: Facts, row: int) -> str:
    return "/".join(captions(facts.photos, row))


def _more(n: int, shown: int) -> str:
    return f" The first {shown} of {n:,}." if n > shown else ""


def _contact_sheets(facts: Facts, rows: Mapping[int, Sequence[int]]) -> Html:
    counts = Counter(facts.photos["label"].tolist())
    content = Html()
    for class_, name in enumerate(CLASS_NAMES):
        pictures = [picture(facts.looks[row].thumbnail, captions(facts.photos, row)) for row in rows[class_]]
        shown = f"{len(pictures)} of {counted(counts[class_], 'photo')}" if pictures else "no photo"
        content += folded(f"{class_}: {name} – {shown}", photos(pictures), unfolded=True)
    text = f"Up to {PHOTOS} photos per class, drawn at random, of as many people as there are; the youngest first."
    return section("Contact sheets", text, content)
