"""The part of a search's page on the choice: the finalists, the winner's holdout score, and the optimism of the
search's own score.

All of it comes from search.json, as `tune.selection.record` and `tune.selection.holdout` read it.
"""

from __future__ import annotations

import math

from maskcls.reports.page import Html, listed, section, table
from maskcls.text import counted
from tune.report import plots
from tune.selection.choice import bag_text
from tune.selection.finalists import RepeatBy
from tune.selection.record import ChoiceRecord, FinalistScores

_REPEATED = {
    RepeatBy.FOLDS: "each repeat on another fold of the train and validation people and with another seed",
    RepeatBy.SEEDS: "each repeat with another seed, on the search's own split",
}
Tile = tuple[str, str, str]
"""Name, figure, and what to know about the figure."""


def figures(choice: ChoiceRecord, winner: FinalistScores, place: str) -> list[Tile]:
    """The headline's tiles for a choice that has a winner: holdout, repeats, validation, optimism, what averaging
    brought, gain.

    Args:
        place: the winner's trial, and its best epoch.
    """
    found, n = choice.holdout, len(winner.repeats)
    spread = "no spread of one repeat" if math.isnan(winner.spread) else f"± {winner.spread:.4f}, standard deviation"
    return [
        ("macro F1 on the holdout", f"{found.f1:.4f}", f"95 % interval {found.interval}, {found.people_text}")
        if found
        else ("macro F1 on the holdout", "–", "the winner was not scored there"),
        (f"mean of {n} repeats" if n > 1 else "one repeat", f"{winner.mean:.4f}", spread),
        ("validation of the winner", f"{choice.model_f1 or winner.model_f1:.4f}", place + _by_whom(choice)),
        (
            "optimism of the search",
            "–" if choice.optimism is None else f"{choice.optimism:+.4f}",
            "the winner's validation minus holdout",
        ),
        *averaging(choice),
        *_gain(choice),
    ]


def _by_whom(choice: ChoiceRecord) -> str:
    """Which models of a bag its validation score is of, as the rest of a sentence."""
    if choice.bag is None or not choice.is_bag:
        return ""
    bag = choice.bag
    return f", a bag: each person by {bag.averaged_text} of its {bag.models} models, which left them out"


def averaging(choice: ChoiceRecord | None) -> list[Tile]:
    """What averaging models brought; nothing where that is not known."""
    bag = choice.bag if choice is not None else None
    if bag is None:
        return []
    return [("gain of averaging", f"{bag.gain.mean:+.4f}", f"{bag_text(bag)} {bag.gain_text}")]


def _gain(choice: ChoiceRecord) -> list[Tile]:
    """The gain over the preset's repeats; nothing where there are none."""
    if choice.gain is None or choice.preset is None:
        return []
    trial, mean = choice.preset.trial, choice.preset.mean
    about = f"trial {trial}, mean {mean:.4f}; {counted(choice.gain.n, 'repeat')} of both: {choice.gain_text}"
    return [("gain over the preset's recipe", f"{choice.gain.mean:+.4f}", about)]


def caution(choice: ChoiceRecord, note: str, gain: Tile) -> str:
    """The lines under the tiles: how often the holdout was used, and the scores that are of no model in best/.

    Args:
        note: how often the holdout was used.
        gain: over the preset, by validation alone.
    """
    parts, winner, best = [note], choice.winner, choice.search_best
    if winner is not None and winner.to_end is not None:
        parts.append(
            f"The search stopped the winner early, at a validation score of {winner.validation_f1:.4f}; it was then "
            "trained to its end."
        )
    if winner is not None and best is not None and best.trial != winner.trial:
        parts.append(f"The search's best validation score is {best.validation_f1:.4f}, of trial {best.trial}.")
    name, figure, preset = gain
    if winner is not None and choice.preset is not None and choice.preset.trial == winner.trial:
        parts.append("The winner is the preset's own recipe.")
    elif choice.gain is None and figure != "–":
        parts.append(f"The {name}, by validation alone, is {figure} ({preset}); the selected score makes it too high.")
    return " ".join(parts)


def sections(choice: ChoiceRecord | None) -> list[Html]:
    """The section on the choice; none where no finalists were repeated."""
    if choice is None or not choice.finalists:
        return []
    n = choice.design.repeats
    headers = ["trial", "validation", "mean", "spread", *(f"repeat {number + 1}" for number in range(n)), "remark"]
    cells = [_row(one, n, choice.winner_id) for one in choice.finalists]
    trials = [one.trial for one in choice.finalists]
    if choice.preset is not None and choice.preset.trial not in trials:
        cells.append([*_row(choice.preset, n, None)[:-1], "the preset, not a finalist"])
    marked = trials.index(choice.winner_id) if choice.winner_id in trials else None
    missing = [f"Trial {one.trial}, {line}" for one in choice.finalists for line in one.missing]
    if choice.preset is not None and choice.preset.trial not in trials:
        missing += [f"The preset, trial {choice.preset.trial}, {line}" for line in choice.preset.missing]
    plot = plots.finalists(choice) if any(one.repeats for one in choice.finalists) else Html()
    return [section("The choice", _introduction(choice), plot + table(headers, cells, marked) + listed(missing))]


def _introduction(choice: ChoiceRecord) -> str:
    n, repeats = len(choice.finalists), choice.design.repeats
    trials = f"The best {n} trials by validation" if n > 1 else "The best trial by validation"
    done, to_do = ("were", "are to be") if n > 1 else ("was", "is to be")
    verb = done if any(one.repeats for one in choice.finalists) else to_do
    often = "once" if repeats == 1 else f"{repeats} times"
    how = f"{trials} {verb} trained again {often}, {_REPEATED[choice.design.by]}."
    if choice.winner_id is None:
        return f"{how} {choice.why_no_winner}."
    rule = "The highest mean wins; of equal means, the smaller spread. The holdout is scored last and decides nothing."
    preset = (
        " The preset's recipe was repeated in the same way."
        if choice.preset is not None and choice.preset.repeats
        else ""
    )
    return f"{how} {rule}{preset}"


def _row(one: FinalistScores, repeats: int, winner_id: str | None) -> list[str]:
    """One finalist of the table; a repeat without a result is a dash."""
    f1s = {repeat.repeat: repeat.f1 for repeat in one.repeats}
    scores = [one.validation_f1, one.mean, one.spread, *(f1s.get(number, math.nan) for number in range(repeats))]
    notes = ["winner"] if one.trial == winner_id else []
    if one.has_lost:
        notes.append("clearly worse, and left out of the rest")
    if one.to_end is not None:
        notes.append(f"stopped early; validation at its end {one.model_f1:.4f}")
    return [one.trial, *map(_score, scores), ", ".join(notes)]


def _score(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.4f}"
