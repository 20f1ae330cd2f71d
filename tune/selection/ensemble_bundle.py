"""Decides whether an ensemble of finalists or the best of them alone is exported, writes it, and confirms it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from maskcls.data.dataset import FaceDataset
from maskcls.serving.bundle import read_bundle
from maskcls.serving.decision import prior_of
from maskcls.serving.export import export_classifiers, note_scores
from maskcls.serving.predictor import probabilities_of
from maskcls.text import counted
from maskcls.training.fit_data import scored_rows
from maskcls.training.metrics import scores
from tune.runs.folder import SearchRun
from tune.runs.holdout_uses import holdout_note
from tune.selection.ensembles import (
    LeftOutComparison,
    best_single,
    compare_on_left_out,
    ensemble_weights,
    select_ensemble,
)
from tune.selection.export import model_of
from tune.selection.finalists import Design, RepeatBy
from tune.selection.fitted import Fitted, from_repeats
from tune.selection.holdout import evaluate_on_holdout
from tune.selection.library import Candidate, build_library, find_candidates
from tune.statistics.paired import Verdict

WIDTH = 79


@dataclass(frozen=True)
class Decision:
    """What was selected from the candidates, and what is exported."""

    candidates: Sequence[Candidate]
    selected: tuple[float, ...]
    """Each candidate's weight in the ensemble that was selected by all people; they sum to one."""
    compared: LeftOutComparison
    exported: tuple[float, ...]
    """Each candidate's weight in the bundle: as selected, or all for the best one alone."""

    @property
    def members(self) -> list[tuple[Candidate, float]]:
        """The candidates in the bundle, with their weights, the heaviest first."""
        taken = [(one, weight) for one, weight in zip(self.candidates, self.exported, strict=True) if weight > 0]
        return sorted(taken, key=lambda member: -member[1])

    @property
    def is_ensemble(self) -> bool:
        """Whether the bundle holds more than one classifier."""
        return len(self.members) > 1


def decide(runs: Sequence[SearchRun], faces: FaceDataset, design: Design, size: int) -> Decision:
    """Select an ensemble from the runs' finalists, and compare it with the best of them where neither was selected."""
    there = find_candidates(runs, faces)
    library = build_library(there, faces, design)
    selected = tuple(ensemble_weights(select_ensemble(library, size)).tolist())
    compared = compare_on_left_out(library, size, prior=prior_of(faces))
    best = best_single(library)
    alone = tuple(float(number == best) for number in range(len(there)))
    return Decision(there, selected, compared, selected if compared.pays else alone)


def write(decision: Decision, out: Path, faces: FaceDataset, overwrite: bool) -> None:
    """Write the decision as a bundle of the finalists' own trials, with the score that it has on the validation people.

    Raises RunError where a trial's state is damaged, or the weights of its frozen stages cannot be had.
    """
    trained, members = [], []
    for candidate, weight in decision.members:
        trained.append(model_of(candidate.run, candidate.finalist, weight))
        end = candidate.finalist.to_end or candidate.finalist
        scores_of = {"epoch": end.best_epoch, "validation_f1": end.validation_f1}
        members.append({**_of(candidate), "weight": weight, **scores_of})
    about = {"classifiers": members, "left_out": _compared(decision.compared)}
    averaged = [(candidate.finalist, weight) for candidate, weight in decision.members]
    fitted = from_repeats(averaged, faces) or Fitted()
    export_classifiers(
        out,
        trained,
        scores=about,
        faces=faces,
        calibration=fitted.calibration,
        decision=fitted.decision,
        overwrite=overwrite,
    )
    rows = scored_rows(faces, "validation")
    truth = faces.photos["label"].to_numpy(np.int64)[rows]
    classes = read_bundle(out, with_models=False).classes(probabilities_of(out, faces, rows), calibrated=False)
    note_scores(out, {"validation": scores(truth, classes).to_dict()})


def confirm(decision: Decision, runs: Sequence[SearchRun], out: Path, faces: FaceDataset) -> list[str]:
    """Score the bundle on the holdout, which decides nothing, and count that in every run. Returns lines for people.

    The score is added to the bundle, too.
    """
    if not faces.split.holdout:
        return ["Nobody is in the holdout, so nothing confirms it."]
    shares = " + ".join(f"{weight:.2g} {candidate.name}" for candidate, weight in decision.members)
    what = f"ensemble of {shares}" if decision.is_ensemble else decision.members[0][0].name
    evaluated = [evaluate_on_holdout(run, faces, out, what) for run in runs]
    found = evaluated[0]  # the same people and bundle in every run
    note_scores(out, {"holdout": {**found.scores, "low": found.low, "high": found.high}})
    uses = [f"{run.name}: {holdout_note(run)}" for run in runs]
    return [
        f"Holdout: {found.f1:.4f} [{found.low:.4f}, {found.high:.4f}], {found.people:,} people. It changes nothing.",
        *uses,
    ]


def table(decision: Decision, design: Design) -> list[str]:
    """Return one line per candidate: its weight as selected, its repeats' mean, and its model's validation score."""
    width = max(len("finalist"), *(len(candidate.name) for candidate in decision.candidates))
    repeats = counted(design.repeats, "repeat")
    lines = [f"{'finalist':{width}}  weight  {repeats:>10}  validation"]
    for candidate, weight in zip(decision.candidates, decision.selected, strict=True):
        share = f"{weight:.2f}" if weight else "-"
        lines.append(
            f"{candidate.name:{width}}  {share:>6}  {candidate.finalist.mean:10.4f}  "
            f"{candidate.finalist.model_f1:10.4f}"
        )
    return lines


def verdict(decision: Decision, design: Design, out: Path) -> list[str]:
    """What the comparison says, and so what is in the bundle."""
    compared, found = decision.compared, decision.compared.difference
    where = (
        f"{design.repeats} folds"
        if design.by == RepeatBy.FOLDS
        else f"{design.repeats} seeds, the validation people in parts"
    )
    interval = f" [{found.low:+.4f}, {found.high:+.4f}]" if found.n > 1 else ", one repeat, so no interval"
    said = (
        f"Scored on people by whom nothing was selected ({where}): ensemble {compared.ensemble:.4f}, best finalist "
        "alone "
        f"{compared.single:.4f}, difference {found.mean:+.4f}{interval}: {found.verdict}."
    )
    return [*_wrapped(said), *_wrapped(_consequence(decision, out))]


def _wrapped(text: str) -> list[str]:
    """Lines of a terminal; a path stays whole."""
    return textwrap.wrap(text, WIDTH, break_long_words=False, break_on_hyphens=False)


def _consequence(decision: Decision, out: Path) -> str:

    best = decision.members[0][0].name
    if not decision.compared.pays:
        return f"The ensemble does not pay: {out} holds the best finalist alone, {best}."
    if not decision.is_ensemble:
        return f"By all people together one finalist alone is selected, so {out} holds no ensemble, but {best}."
    models = sum(len(candidate.recipe.split.models) for candidate, _ in decision.members)
    said = (
        "The ensemble pays"
        if decision.compared.difference.verdict == Verdict.BETTER
        else "The ensemble scored higher, which may be chance"
    )
    return f"{said}: {out} holds {len(decision.members)} classifiers, and a photo is answered by {models} models."


def _of(candidate: Candidate) -> dict[str, Any]:
    return {"run": candidate.run.name, "trial": candidate.finalist.trial_id, "mean_of_repeats": candidate.finalist.mean}


def _compared(compared: LeftOutComparison) -> dict[str, Any]:
    """For JSON, which has no nan: one repeat's interval is None."""
    found = compared.difference
    numbers = {name: value if value == value else None for name, value in asdict(found).items()}
    return {
        "ensemble": compared.ensemble,
        "best_alone": compared.single,
        "difference": {**numbers, "verdict": found.verdict},
    }
