"""Two searches side by side: what differs between them, how they went, and their winners on the same people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.ticker import MaxNLocator

from maskcls.data.dataset import FaceDataset
from maskcls.errors import CallError, DataError
from maskcls.files import write_atomically
from maskcls.recipe import without_later
from maskcls.reports.page import Html, Section, listed, page, section, table, tiles
from maskcls.reports.plots import ACCENT, BLUE, STYLE, hover, legend, new_figure, to_svg
from maskcls.text import counted
from tune.fitting.curve import read_curve
from tune.report.page import ReportOptions, model_of
from tune.report.plots import NOTHING
from tune.report.predicted import Predicted, read_sets
from tune.runs import leaderboard
from tune.runs.folder import SearchRun
from tune.runs.record import SearchRecord
from tune.runs.session import has_data
from tune.runs.study import Record, records
from tune.selection.finalists import Finalist, read_finalists
from tune.selection.gain import repeats_difference
from tune.selection.record import ChoiceRecord, read_choice
from tune.statistics.paired import ModelDifference, Repeat, model_difference
from tune.statistics.people import FEW_PEOPLE

LINES: Sequence[dict[str, Any]] = (
    {"color": BLUE, "lw": 3, "marker": "o", "ms": 6},
    {"color": ACCENT, "lw": 1.5, "marker": "s", "ms": 3.5},
)
"""How each search is drawn, the second above the first: where both are the same, both are seen."""


@dataclass(frozen=True)
class Searched:
    """One of the two searches, as far as it is recorded."""

    run: SearchRun
    search: SearchRecord
    trials: Sequence[Record]
    choice: ChoiceRecord | None

    @classmethod
    def read(cls, run: SearchRun) -> Searched:
        """Read a search, which may still be running."""
        search = run.record()
        return cls(run, search, records(run), read_choice(search))

    @property
    def name(self) -> str:
        """The run's name."""
        return self.run.name

    @property
    def best(self) -> Record | None:
        """The winner's trial, or the best by validation."""
        winner = self.choice.winner_id if self.choice else None
        return next((one for one in self.trials if one.trial_id == winner), None) or leaderboard.best(self.trials)


def write_comparison(base: SearchRun, variant: SearchRun, options: ReportOptions, out: Path | None = None) -> Path:
    """Write the page that shows two searches side by side, and return its file. Both are only read.

    Args:
        base: the search that the other one is compared with.
        out: the file; None: `report-with-<base>.html` in the variant's folder.

    Raises CallError where both are the same run.
    """
    if base.path.resolve() == variant.path.resolve():
        raise CallError(f"--compare {base.name} is the run itself. Name another search.")
    both = Searched.read(base), Searched.read(variant)
    sections = [
        _headline(both),
        _winners(both, options),
        section("How they went", "", _progress(both) + _winners_curves(both)),
        *_differences(both),
    ]
    text = f"{both[1].name} beside {both[0].name}; a difference is {both[1].name} minus {both[0].name}."
    file = out or variant.path / f"report-with-{base.name}.html"
    write_atomically(file, page(f"Searches {base.name} and {variant.name}", text, sections))
    return file


def _headline(both: Sequence[Searched]) -> Html:
    """The scores of each search's winner."""
    shown = []
    for one in both:
        choice, best = one.choice, one.best
        if choice is not None and choice.holdout is not None:
            about = f"95 % interval {choice.holdout.interval}, {choice.holdout.people_text}"
            shown.append((f"{one.name}: macro F1 on its holdout", f"{choice.holdout.f1:.4f}", about))
        else:
            shown.append((f"{one.name}: macro F1 on its holdout", "–", "the winner was not scored there"))
        validation = "–" if best is None or best.f1 is None else f"{best.f1:.4f}"
        trials = f"{counted(len(one.trials), 'trial')}; the best of many scores is too good"
        shown.append((f"{one.name}: best validation macro F1", validation, trials))
    return tiles(shown, "")


def _winners(both: Sequence[Searched], options: ReportOptions) -> Section:
    """The paired differences of the two winners, or why there are none."""
    lines = [*_on_the_holdout(both, options), *_over_repeats(both, options)]
    text = "Both winners on the same photos of the same people, so that people who are hard for both cancel out."
    return section("The winners on the same people", text, listed(lines))


def _on_the_holdout(both: Sequence[Searched], options: ReportOptions) -> list[str]:
    """The difference of the two models in best/ on people who are in the holdout of both searches."""
    found = [_holdout(one, options) for one in both]
    lacking = [one.name for one, predicted in zip(both, found, strict=True) if predicted is None]
    base, variant = found
    if base is None or variant is None:
        return [f"On the holdout: no difference, because no predictions are known of {' and '.join(lacking)}."]
    pair, said = _same_photos(base, variant)
    if pair is None:
        return [f"On the holdout: no difference. {said}"]
    if (pair.base == pair.variant).all():
        return [f"On the holdout: no difference, because both models predict the same class for every photo. {said}"]
    result = model_difference(pair)
    return [
        f"On the holdout: {_difference_text(result)}, over {counted(result.people, 'person', 'people')} and not over "
        f"seeds: it is of these two models. {said}"
    ]


def _holdout(one: Searched, options: ReportOptions) -> Predicted | None:
    if not has_data(one.run):
        return None
    faces = FaceDataset.load(one.run.data, options.cache)
    return read_sets(one.run, faces, one.trials, None, one.name, predicts=options.predicts, sides=("holdout",)).holdout


def _same_photos(base: Predicted, variant: Predicted) -> tuple[Repeat | None, str]:
    """The photos that both predicted, and a sentence on whom that leaves out; None where too few people are left."""
    columns = ["key", "size_bytes", "label"]
    one, other = (found.photos[columns].assign(row=range(len(found.photos))) for found in (base, variant))
    shared = one.merge(other, on="key", suffixes=("", "_other"))
    same = shared[(shared["label"] == shared["label_other"]) & (shared["size_bytes"] == shared["size_bytes_other"])]
    rows, others = same["row"].to_numpy(np.int64), same["row_other"].to_numpy(np.int64)
    people = len(set(base.person[rows]))
    sizes = [found.resamples.people for found in (base, variant)]
    if people == sizes[0] == sizes[1] and len(same) == len(one) == len(other):
        said = "Both searches have the same holdout people."
    else:
        said = (
            f"The holdouts differ ({sizes[0]} and {sizes[1]} people): {people} people are in both, with the same "
            f"photos and labels, and only they count."
        )
    if people < FEW_PEOPLE:
        return None, f"{said} At least {FEW_PEOPLE} are needed."
    return (
        Repeat(
            base.truth[rows], base.predicted[rows], variant.predicted[others], base.person[rows], base.stratum[rows]
        ),
        said,
    )


def _over_repeats(both: Sequence[Searched], options: ReportOptions) -> list[str]:
    """The difference of the winners' repeats, where both searches repeated on the same folds with the same seeds."""
    base, variant = both
    if base.choice is None or variant.choice is None:
        return []
    same = [
        (one.search.data.digest, one.search.split_digest, one.choice.design.by, one.choice.design.repeats)
        for one in both
        if one.choice is not None
    ]
    if same[0] != same[1] or not has_data(base.run):
        return ["Over repeats: no difference, because the searches repeated on other people, or in another way."]
    faces = FaceDataset.load(base.run.data, options.cache)
    try:
        winners = _winner(base, faces), _winner(variant, faces)
        found = repeats_difference(winners[0], winners[1], faces) if winners[0] and winners[1] else None
    except DataError as error:
        return [f"Over repeats: no difference. {error}"]
    if found is None:
        return []
    interval = f" [{found.low:+.4f}, {found.high:+.4f}]" if found.n > 1 else ""
    return [
        f"Over {counted(found.n, 'repeat')} with the same seeds and people: {found.mean:+.4f}{interval}, "
        f"{found.verdict}, over seeds and people."
    ]


def _winner(one: Searched, faces: FaceDataset) -> Finalist | None:
    if one.choice is None:
        return None
    found = read_finalists(one.run, one.trials, faces, one.choice.design)
    return next((each for each in found if each.trial_id == one.choice.winner_id), None)


def _difference_text(found: ModelDifference) -> str:
    return f"{found.mean:+.4f} [{found.low:+.4f}, {found.high:+.4f}], {found.verdict}"


def _progress(both: Sequence[Searched]) -> Html:
    """The best validation F1 so far of both searches, over the epochs that their trials trained."""
    with mpl.rc_context(STYLE):
        figure, axes = new_figure(1, 1, 3.6)
        ax = axes[0]
        for one, look in zip(both, LINES, strict=True):
            scored = [trial for trial in one.trials if trial.f1 is not None]
            best = np.maximum.accumulate([trial.f1 or 0.0 for trial in scored] or [0.0])
            epochs = np.cumsum([trial.epochs for trial in scored] or [0])
            (line,) = ax.step(epochs, best, where="post", label=one.name, **look)
            hover(line, [f"{one.name}, trial {trial.trial_id}: {trial.f1:.4f}" for trial in scored])
        ax.set(xlabel="epochs of all trials so far, in the order of the trials", ylabel="best validation macro F1")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        legend(figure, ax)
        return to_svg(figure, "Best validation macro F1 so far of both searches over the epochs that they trained")


def _winners_curves(both: Sequence[Searched]) -> Html:
    """The learning curves of both winners; nothing where a search has none."""
    winners = [(one, one.best) for one in both]
    with mpl.rc_context(STYLE):
        figure, axes = new_figure(1, 1, 3.2)
        ax = axes[0]
        for (one, best), look in zip(winners, LINES, strict=True):
            if best is None:
                return Html()
            curve = {best.trial_id: read_curve(one.run.trial(best.trial_id))}
            rows = model_of(one.run, best, one.choice, curve).rows
            epochs, f1s = [row["epoch"] for row in rows], [row["validation_f1"] for row in rows]
            (line,) = ax.plot(epochs, f1s, label=f"{one.name}, trial {best.trial_id}", **look)
            hover(line, [f"{one.name}, epoch {at}: {f1:.4f}" for at, f1 in zip(epochs, f1s, strict=True)])
        ax.set(xlabel="epoch of the winner", ylabel="validation macro F1")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        legend(figure, ax)
        return to_svg(figure, "Validation macro F1 of both winners over their epochs")


def _differences(both: Sequence[Searched]) -> list[Section]:
    """What differs in call, data and code, and between the winners' recipes; at the end what does not."""
    recipes = [without_later(one.best.recipe) if one.best else {} for one in both]
    same = "What is the same is left out."
    asked = (
        ("the call", "What differs in the call", same, list(map(_call, both))),
        ("data and split", "What differs in data and split", same, list(map(_data, both))),
        (
            "code and machine",
            "What differs in code and machine",
            "Of each search's last driver.",
            list(map(_code, both)),
        ),
        ("the winners' recipes", "What differs between the winners' recipes", same, recipes),
    )
    found = [(what, title, text, _different(values)) for what, title, text, values in asked]
    headers = ["what", *(one.name for one in both)]
    sections = [section(title, text, table(headers, rows)) for _, title, text, rows in found if rows]
    equal = [what for what, _, _, rows in found if not rows]
    return sections + ([section("What is the same", f"{'; '.join(equal).capitalize()}.", Html())] if equal else [])


def _different(values: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """One row for each value that two records do not share: its name, and both."""
    base, variant = values
    names = [name for name in dict.fromkeys((*base, *variant)) if str(base.get(name)) != str(variant.get(name))]
    return [[name, *(_shown(one.get(name, NOTHING)) for one in values)] for name in names]


def _shown(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value) or NOTHING


def _call(one: Searched) -> dict[str, Any]:
    space = {"question": one.search.space.question} if one.search.space else {}
    return {**one.search.call, **space}


def _data(one: Searched) -> dict[str, Any]:
    data = one.search.data
    return {
        "photos": data.photos,
        "people": data.people,
        "digest of photos and labels": data.digest,
        "digest of the split": one.search.split_digest,
    }


def _code(one: Searched) -> dict[str, Any]:
    if not one.search.sessions:
        return {}
    last = one.search.sessions[-1]
    return {"commit": last.commit, **last.versions, **last.hardware.model_dump(), "at a time": last.parallel}
