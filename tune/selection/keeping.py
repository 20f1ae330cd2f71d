"""Which checkpoints a search keeps (`--keep N`): the one rule, for a running search and for `maskcls runs prune`.

    a trial that has not ended      everything: it may go on from there
    the best N, the finalists, and  the weights of the best epoch
    the preset's trial
    a finalist that was stopped     its state as well, until it is trained to its end
    a finalist's repeats            the weights of the best epochs, until the choice is made; then the winner's alone
    any other trial                 recipe, curve and hardware, from which `tune.reproduce` trains it again

Only trials whose weights can be read count among the N. A trial's weights are on the disk before it reports its epoch,
and its end is in the journal before anything is removed: so whatever is removed, N better ones are whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from maskcls.training.checkpoint_files import files_of, has_weights, state_to_drop
from tune.fitting.result import FitResult
from tune.runs import leaderboard
from tune.runs.folder import SearchRun
from tune.runs.stopping import Reason
from tune.runs.study import PRESET, Record
from tune.selection.finalists import top_trials
from tune.selection.finish import finish_request, is_left
from tune.selection.record import read_choice
from tune.states import TrialState


@dataclass(frozen=True)
class Keeping:
    """What a search keeps: the weights of `keep` trials, and of as many as it has finalists."""

    keep: int
    finalists: int

    @property
    def weights(self) -> int:
        """How many trials' weights stay, that of the preset not counted."""
        return max(self.keep, self.finalists)


def unneeded(run: SearchRun, trials: Sequence[Record], keeping: Keeping) -> list[Path]:
    """Return the checkpoint files that the run can do without, in the order in which they may be removed."""
    ended = [one for one in leaderboard.ranked(trials) if one.state.ended]
    whole = [one for one in ended if one.f1 is not None and has_weights(run.trial(one.trial_id))]
    kept = _kept(ended, whole, keeping.weights)
    go_on = {one.trial_id for one in top_trials(whole, keeping.finalists) if _goes_on(run, one)}
    found: list[Path] = []
    for one in ended:
        if one.trial_id not in kept:
            found += [file for folder in _folders(run, one) for file in files_of(folder)]
        elif one.trial_id not in go_on:
            found += state_to_drop(run.trial(one.trial_id))
    return found + _of_other_repeats(run, ended)


def _kept(ended: Sequence[Record], whole: Sequence[Record], n: int) -> set[str]:
    """Return the trials whose weights stay.

    Args:
        ended: the best one first.
        whole: those of them whose weights can be read.
    """
    # The best with and without those that cannot be read, as where a disk fails for a moment. A recipe that was tried
    # twice is one finalist, so that a later trial may be a finalist, too.
    best = [*ended[:n], *whole[:n], *top_trials(ended, n), *top_trials(whole, n)]
    return {one.trial_id for one in (*best, *(one for one in ended if one.origin == PRESET))}


def _of_other_repeats(run: SearchRun, trials: Sequence[Record]) -> list[Path]:
    """Return the checkpoints of the repeats of all finalists but the winner, once it is chosen among these trials."""
    folders = sorted(run.finalists.glob("*/state"))
    choice = read_choice(run.record()) if folders else None
    if choice is None or choice.winner is None or choice.reason != Reason.FINISHED:
        return []
    finalists = [one.trial_id for one in top_trials(trials, choice.design.finalists)]
    if finalists != [one.trial for one in choice.finalists]:  # among more trials another one may win
        return []
    results = [(folder, FitResult.read(folder.parent)) for folder in folders]
    others = [
        folder
        for folder, result in results
        if result is not None and "split" in result.settings and result.settings["trial"] != choice.winner_id
    ]
    return [file for folder in others for file in files_of(folder)]


def remove_unneeded(run: SearchRun, trials: Sequence[Record], keeping: Keeping) -> list[Path]:
    """Remove the checkpoint files that the run can do without, and return them; one that resists stays until the next
    time."""
    removed = []
    for file in unneeded(run, trials, keeping):
        with suppress(OSError):
            file.unlink(missing_ok=True)
            removed.append(file)
    return removed


class Keeper:
    """Applies the rule in a running search, from its beginning and after each trial's end.

    A trial's end costs it what the trials cost that still have files.
    """

    def __init__(self, run: SearchRun, keeping: Keeping, trials: Iterable[Record]) -> None:
        self._run, self._keeping = run, keeping
        self._holding = {one.trial_id: one for one in trials if one.state.ended}
        self._remove()

    def keeps(self, trial: Record) -> bool:
        """Whether the weights of this trial, which may lie elsewhere, would stay now."""
        if not trial.state.ended:
            return True
        ended = leaderboard.ranked([*self._holding.values(), trial])
        there = [one for one in ended if one is trial or has_weights(self._run.trial(one.trial_id))]
        return trial.trial_id in _kept(ended, [one for one in there if one.f1 is not None], self._keeping.weights)

    def end(self, trial: Record) -> list[Path]:
        """Remove what the run can do without now that this trial has ended; return it."""
        if not trial.state.ended:
            return []
        self._holding[trial.trial_id] = trial
        return self._remove()

    def _remove(self) -> list[Path]:
        removed = remove_unneeded(self._run, list(self._holding.values()), self._keeping)
        self._holding = {
            name: one
            for name, one in self._holding.items()
            if any(files_of(folder) for folder in _folders(self._run, one))
        }
        return removed


def _goes_on(run: SearchRun, trial: Record) -> bool:
    return trial.state == TrialState.STOPPED_EARLY and is_left(run, trial)


def _folders(run: SearchRun, trial: Record) -> list[Path]:
    """Return the folders that hold a checkpoint of the trial: its own, and that of its training to the end."""
    own = run.trial(trial.trial_id)
    if not trial.recipe or not run.finalists.exists():
        return [own]
    return [own, finish_request(run, trial, cpus=1, gpus=0.0).checkpoint_folder]
