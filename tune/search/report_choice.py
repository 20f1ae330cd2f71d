"""What the page of a search says of its choice: the finalists, the winner on the holdout, and how much too good the search's score was.

All of it comes from search.json, as `tune.selection.choice` and `tune.selection.holdout` keep it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from maskcls.reports.page import Html, listed, section, table
from maskcls.text import counted
from tune.search import report_plots
from tune.selection.choice import CHOICE, holdout_note
from tune.selection.holdout import holdout_evaluations

_TOLD = {
    "folds": "each repeat on a fold of the train and validation people, with a seed of its own",
    "seeds": "each repeat with a seed of its own, on the search's own split",
}
Tile = tuple[str, str, str]


def figures(search: Mapping[str, Any], place: str) -> list[Tile]:
    """The headline's tiles, of a choice that has a winner: holdout, repeats, validation, optimism.

    Args:
        place: which trial it is, and its best epoch.
    """
    choice = search[CHOICE]
    found, n, spread = choice["holdout"], choice["repeats"], choice["spread"]
    on_holdout = (
        ("macro F1 on the holdout", f"{found['f1']:.4f}", f"95 % interval {_interval(found)}, {_people(found)}")
        if found
        else ("macro F1 on the holdout", "–", "the winner was not scored there")
    )
    return [
        on_holdout,
        (
            f"mean of {n} repeats" if n > 1 else "one repeat",
            f"{choice['mean']:.4f}",
            "no spread of one repeat" if spread is None else f"± {spread:.4f}, the repeats' standard deviation",
        ),
        ("validation, the search's own score", f"{choice['validation_f1']:.4f}", place),
        ("optimism of the search", f"{choice['optimism']:+.4f}" if found else "–", "its own score less the holdout's"),
    ]


def caution(search: Mapping[str, Any], gained: Tile) -> str:
    """The line under the tiles: looks at the holdout, and the gain over the preset, which is of validation scores."""
    told = holdout_note(search) if holdout_evaluations(search) else "The holdout has not been looked at."
    name, figure, preset = gained
    return f"{told} The {name}, by validation alone, is {figure} ({preset})." if figure != "–" else told


def sections(search: Mapping[str, Any]) -> list[Html]:
    """The section on the choice; none where no finalists were run."""
    choice = search.get(CHOICE)
    if not choice or not choice["finalists"]:
        return []
    design, rows = choice["design"], choice["finalists"]
    number = max((len(one["repeats"]) for one in rows), default=0)
    headers = ["trial", "validation", "mean", "spread", *(f"repeat {n + 1}" for n in range(design["repeats"])), ""]
    cells = [_row(one, design["repeats"], choice["winner"]) for one in rows]
    marked = next((at for at, one in enumerate(rows) if one["trial"] == choice["winner"]), None)
    missing = [f"Trial {one['trial']}, {line}" for one in rows for line in one["missing"]]
    plot = report_plots.finalists(choice) if number else Html()
    return [section("The choice", _told(choice), plot + table(headers, cells, marked) + listed(missing))]


def _told(choice: Mapping[str, Any]) -> str:
    design = choice["design"]
    n = len(choice["finalists"])
    repeats = "once" if design["repeats"] == 1 else f"{design['repeats']} times"
    tried = f"The best {n} trials by validation were" if n > 1 else "The best trial by validation was"
    how = f"{tried} trained again {repeats}, {_TOLD[design['by']]}."
    if choice["winner"] is None:
        return f"{how} No repeat is complete yet."
    return f"{how} The highest mean wins, of equal ones the smaller spread. The holdout is asked last, and decides nothing."


def _row(one: Mapping[str, Any], repeats: int, winner: str | None) -> list[str]:
    f1s = {repeat["repeat"]: repeat["f1"] for repeat in one["repeats"]}
    scores = [one["validation_f1"], one["mean"], one["spread"], *(f1s.get(number) for number in range(repeats))]
    return [one["trial"], *map(_score, scores), "winner" if one["trial"] == winner else ""]


def _score(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _interval(found: Mapping[str, Any]) -> str:
    return f"[{found['low']:.4f}, {found['high']:.4f}]"


def _people(found: Mapping[str, Any]) -> str:
    return counted(found["people"], "person", "people")
