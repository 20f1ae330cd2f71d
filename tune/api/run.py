"""A search's run, opened in Python: leaderboard, study, choice, holdout score, and the winner as a predictor."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from maskcls.errors import RunError
from maskcls.files import expanded, relative
from maskcls.text import command

if TYPE_CHECKING:
    import optuna
    import pandas as pd

    from maskcls.serving.predictor import Predictor
    from tune.runs.folder import SearchRun
    from tune.runs.holdout_record import HoldoutScore
    from tune.selection.record import ChoiceRecord


def open_run(run: str | os.PathLike[str], runs: str | os.PathLike[str] = "runs") -> Run:
    """Open a search's run, whether a command or `run_search` made it, and whether or not it is still running.

    Args:
        run: the run's folder, or its name under `runs`.
        runs: the folder of all runs.

    Raises CallError, listing the runs there are, where it is not there or is no search.
    """
    from tune.runs.folder import SearchRun

    place = os.fspath(run)
    if place.startswith("~"):
        place = str(expanded(place))
    return Run(SearchRun.open(place, expanded(os.fspath(runs))).path)


@dataclass(frozen=True, repr=False)
class Run:
    """A search's run on disk. Everything is read when it is asked for, so a run that is still going on can be watched.

    A run stands for its path: `run_search(resume=run)`, `run_search(learn_from=[run], ...)`.
    """

    path: Path
    """Its folder, absolute."""

    def __fspath__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return f"open_run({relative(self.path)!r})"

    @property
    def name(self) -> str:
        """The name of its folder."""
        return self.path.name

    @property
    def report(self) -> Path:
        """The search as a page; there as soon as the search has ended."""
        return self._folder.report

    @property
    def leaderboard(self) -> pd.DataFrame:
        """One row per trial that was begun, best first.

        The columns are those of leaderboard.csv: `rank`, `trial` (its id), `state`, `best_validation_f1`, `best_epoch`,
        `epochs`, `seconds`, `origin`, `overrides` (a dict) and `message`. What a trial does not have yet is missing.
        """
        import pandas as pd

        from tune.runs import leaderboard
        from tune.runs.study import records

        rows = [
            {
                "rank": rank if one.f1 is not None else None,
                "trial": one.trial_id,
                "state": str(one.state),
                "best_validation_f1": one.f1,
                "best_epoch": one.best_epoch or None,
                "epochs": one.epochs,
                "seconds": one.seconds,
                "origin": one.origin,
                "overrides": one.overrides,
                "message": one.message,
            }
            for rank, one in enumerate(leaderboard.ranked(records(self._folder)), start=1)
        ]
        table = pd.DataFrame(rows, columns=list(leaderboard.COLUMNS))
        return table.astype({"rank": "Int64", "best_validation_f1": "float64", "best_epoch": "Int64"})

    @property
    def study(self) -> optuna.Study:
        """A copy of the Optuna study, in memory: nothing that is done to it reaches the run.

        A trial's number is its id on the leaderboard. Trials that the sampler was given from other runs are in it, too.
        """
        from tune.runs.study import in_memory

        return in_memory(self._folder)

    @property
    def choice(self) -> ChoiceRecord | None:
        """The choice among the `finalists`. None where no finalist was repeated yet.

        Of each finalist `mean` and `spread` are mean and standard deviation of its repeats' macro F1, `low` and `high`
        the mean's 95 % interval over seeds and people; nan for fewer than two repeats. `winner` is one of them; its
        score on the holdout is `holdout`.
        """
        from tune.selection.record import read_choice

        return read_choice(self._folder.record())

    @property
    def holdout(self) -> HoldoutScore | None:
        """The winner's macro F1 on the holdout (`f1`), with its 95 % interval over people (`low`, `high`).

        None before the winner was scored there.
        """
        choice = self.choice
        return choice.holdout if choice is not None else None

    def predictor(self, device: str = "auto", *, flip: bool = False) -> Predictor:
        """Load what the search found, the bundle in best/, as `Predictor` does. Raises RunError before there is one."""
        from maskcls.serving.bundle import MANIFEST
        from maskcls.serving.predictor import Predictor

        best = self._folder.best
        if not (best / MANIFEST).is_file():
            export = command("tune.export", "--run", self.path, "--trial", 0, "--out", "DIR")
            raise RunError(
                f"Run {self.name} has no bundle in {best} yet: it is written when a search ends. Go on with the run, "
                f"run_search(resume={relative(self.path)!r}), or export a trial: {export}"
            )
        return Predictor(best, device, flip=flip)

    @property
    def _folder(self) -> SearchRun:
        from tune.runs.folder import SearchRun

        return SearchRun(self.path)
