"""`python -m tune.ensemble --run RUN --out DIR`: finalists of one or more searches as one bundle, if that is better."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from maskcls import cli
from maskcls.cli import run as run_command
from maskcls.errors import CallError
from maskcls.text import counted

if TYPE_CHECKING:
    from maskcls.data.dataset import FaceDataset
    from maskcls.stores.arrays import CacheOptions
    from tune.runs.folder import SearchRun
    from tune.selection.ensembles import LeftOutComparison
    from tune.selection.finalists import Design
    from tune.selection.library import Candidate

RUN_HELP = (
    "A search with finalists: its folder, or its name under --runs. Again for more searches of the same data and split."
)
SIZE_HELP = "How often a finalist is taken, at most; one may be taken again, which raises its weight."
WIDTH = 79


def main(
    run: Annotated[list[str], typer.Option("--run", help=RUN_HELP)],
    out: Annotated[
        Path, typer.Option("--out", help="Folder for the bundle; must not exist, or be a bundle with --overwrite.")
    ],
    size: Annotated[int, typer.Option("--size", help=SIZE_HELP)] = 10,
    runs: Annotated[Path, typer.Option("--runs", help="Folder of all runs.")] = Path("runs"),
    cache: cli.Cache = None,
    pixel_store_gb: cli.PixelStoreGb = 20.0,
    feature_store_gb: cli.FeatureStoreGb = 20.0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the bundle in --out.")] = False,
) -> None:
    """Average the probabilities of searches' finalists, selected greedily by what their repeats predicted (Caruana et
    al., 2004).

    Whether that beats the best finalist alone is decided on people by whom nothing was selected. Where it does, --out
    gets the ensemble, one bundle that predicts like any other; where not, the best finalist alone. The holdout only
    confirms; each use of it is counted.
    """
    from maskcls.serving.bundle import check_writable
    from maskcls.stores.arrays import CacheOptions
    from tune.runs.folder import SearchRun
    from tune.selection.library import check_runs

    if size < 1:
        raise CallError(f"--size must be at least 1, but got {size}.")
    check_writable(out, overwrite=overwrite)
    found = [SearchRun.open(name, runs) for name in run]
    design = check_runs(found)
    with ExitStack() as held:
        for one in found:
            held.enter_context(one.driving())
        faces = _faces(found[0], CacheOptions(cache, pixel_store_gb, feature_store_gb))
        decision = decide(found, faces, design, size)
        typer.echo("\n".join((*_table(decision, design), *verdict(decision, design, out))))
        write(decision, out, faces, overwrite)
        typer.echo("\n".join(confirm(decision, found, out, faces)))
    typer.echo(f"To predict:\n  python -m maskcls.predict --bundle {out} --images DIR --out submission.csv")


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
    from tune.selection.ensembles import best_single, compare_on_left_out, ensemble_weights, select_ensemble
    from tune.selection.library import build_library, find_candidates

    there = find_candidates(runs, faces)
    library = build_library(there, faces, design)
    selected = tuple(ensemble_weights(select_ensemble(library, size)).tolist())
    compared = compare_on_left_out(library, size)
    best = best_single(library)
    alone = tuple(float(number == best) for number in range(len(there)))
    return Decision(there, selected, compared, selected if compared.pays else alone)


def write(decision: Decision, out: Path, faces: FaceDataset, overwrite: bool) -> None:
    """Write the decision as a bundle of the finalists' own trials, with the score that it has on the validation people.

    Raises RunError where a trial's state is damaged, or the weights of its frozen stages cannot be had.
    """
    import numpy as np

    from maskcls.serving.bundle import Trained, export_classifiers, note_scores
    from maskcls.serving.predictor import probabilities_of
    from maskcls.training.checkpoint import load_best
    from maskcls.training.metrics import scores
    from tune.selection.export import complete_states

    trained, members = [], []
    for candidate, weight in decision.members:
        recipe, result, moving = load_best(candidate.run.trial(candidate.finalist.trial_id))
        trained.append(Trained(recipe, complete_states(recipe, moving), weight))
        scores_of = {"epoch": result.epoch, "validation_f1": result.validation_f1}
        members.append({**_of(candidate), "weight": weight, **scores_of})
    about = {"classifiers": members, "left_out": _compared(decision.compared)}
    export_classifiers(out, trained, scores=about, faces=faces, overwrite=overwrite)
    rows = faces.rows("validation")
    truth = faces.photos["label"].to_numpy(np.int64)[rows]
    note_scores(out, {"validation": scores(truth, probabilities_of(out, faces, rows)).to_dict()})


def confirm(decision: Decision, runs: Sequence[SearchRun], out: Path, faces: FaceDataset) -> list[str]:
    """Score the bundle on the holdout, which decides nothing, and count that in every run. Returns lines for people.

    The score is added to the bundle, too.
    """
    from maskcls.serving.bundle import note_scores
    from tune.selection.choice import holdout_note
    from tune.selection.holdout import evaluate_on_holdout

    if not faces.split.holdout:
        return ["Nobody is in the holdout, so nothing confirms it."]
    shares = " + ".join(f"{weight:.2g} {candidate.name}" for candidate, weight in decision.members)
    what = f"ensemble of {shares}" if decision.is_ensemble else decision.members[0][0].name
    evaluated = [evaluate_on_holdout(run, faces, out, what) for run in runs]
    found = evaluated[0]  # the same people and bundle in every run
    note_scores(out, {"holdout": {**found.scores, "low": found.low, "high": found.high}})
    counted = [f"{run.name}: {holdout_note(run.record())}" for run in runs]
    return [
        f"Holdout: {found.f1:.4f} [{found.low:.4f}, {found.high:.4f}], {found.people:,} people. It changes nothing.",
        *counted,
    ]


def _faces(run: SearchRun, cache: CacheOptions) -> FaceDataset:
    from maskcls.data.dataset import FaceDataset

    return FaceDataset.load(run.data, cache)


def _table(decision: Decision, design: Design) -> list[str]:
    """A line a candidate: the weight that was selected, the mean of its repeats, and the search's own score."""
    width = max(len("finalist"), *(len(candidate.name) for candidate in decision.candidates))
    repeats = counted(design.repeats, "repeat")
    lines = [f"{'finalist':{width}}  weight  {repeats:>10}  validation"]
    for candidate, weight in zip(decision.candidates, decision.selected, strict=True):
        share = f"{weight:.2f}" if weight else "-"
        lines.append(
            f"{candidate.name:{width}}  {share:>6}  {candidate.finalist.mean:10.4f}  "
            f"{candidate.finalist.validation_f1:10.4f}"
        )
    return lines


def verdict(decision: Decision, design: Design, out: Path) -> list[str]:
    """What the comparison says, and so what is in the bundle."""
    from tune.selection.finalists import RepeatBy

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
    from tune.statistics.paired import Verdict

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


if __name__ == "__main__":
    run_command(main)
