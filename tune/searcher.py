"""StudySearch: the adapter over Ray's OptunaSearch that asks a space for recipes and tells the study how each trial ended.

What it mends: OptunaSearch tells a trial that ASHA stopped as complete, with its low-epoch value, and never reports a trial's last
result. Here a trial that did not come to its recipe's last epoch is told as pruned, with all its intermediate values; one that
diverged or did not fit into memory is infeasible too, by a constraint, so that TPE keeps away from there.

A trial that was running when its driver was killed is still RUNNING in the journal. It is taken up as it is, before anything new
is asked: same number, same parameters, same folder. So the sampler never sees a trial that nobody works on, and none stands twice.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState
from ray.tune.experiment import Trial
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from maskcls.errors import MaskclsError
from tune import study as records
from tune.plan import SearchPlan
from tune.run_dir import RunDir
from tune.trainable import (
    COMPLETE,
    DISK_FULL,
    DIVERGED,
    FAILED,
    FIDELITY,
    METRIC,
    MODE,
    OUT_OF_MEMORY,
    RUNNING,
    STOPPED_EARLY,
    read_end,
    write_error,
)

_TOLD = {COMPLETE: TrialState.COMPLETE, FAILED: TrialState.FAIL}
_ERROR = re.compile(r"[\w.]*(Error|Exception): ")
_INFEASIBLE = (DIVERGED, OUT_OF_MEMORY)


class StudySearch(OptunaSearch):  # type: ignore[misc]
    """Args:
    plan: its space, base recipe, pinned values and seed are used.
    run: its journal must be mended and held (`RunDir.driving`).
    """

    def __init__(self, plan: SearchPlan, run: RunDir) -> None:
        self.plan, self.run = plan, run
        self.study = records.open_study(run)
        super().__init__(
            space=self._never_called,
            metric=METRIC,
            mode=MODE,
            storage=self.study._storage,
            study_name=self.study.study_name,
            sampler=self.study.sampler,
        )
        self.study = self._ot_study
        self.error: MaskclsError | None = None
        self.full_disk = ""
        self._errors: dict[str, str] = {}
        self._stale = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """The next trial's id and complete recipe. Ends the search, with `error` set, where the space cannot give one."""
        trial = self._ask()
        self._ot_trials[trial_id] = trial
        try:
            recipe = self._recipe(trial)
        except MaskclsError as error:
            self._end(trial, FAILED, str(error))
            self.error = error
            self._completed_trials.add(trial_id)
            return Searcher.FINISHED  # type: ignore[no-any-return]
        return {"trial": records.trial_id(trial.number), "recipe": recipe}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Report the running best after an epoch. An epoch that a resumed trial reports again is passed over."""
        trial = self._ot_trials[trial_id]
        epoch = int(result[FIDELITY])
        if epoch > 0 and epoch not in self.study._storage.get_trial(trial._trial_id).intermediate_values:
            trial.report(float(result[METRIC]), epoch)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell the study how a trial ended. Ray calls this without a result where a worker died for good."""
        if trial_id in self._completed_trials:
            return
        trial = self._ot_trials[trial_id]
        if result and result.get("state") == DISK_FULL:
            self.full_disk = str(result["message"])
            return
        self._completed_trials.add(trial_id)
        if not result or METRIC not in result:
            self._end(trial, FAILED, self._why(trial_id, trial) if error else "It reported nothing.")
            return
        self.on_trial_result(trial_id, result)
        state = str(result.get("state", RUNNING))
        trial.set_user_attr(records.SECONDS, round(float(result.get("seconds", 0.0)), 3))
        self._end(trial, STOPPED_EARLY if state == RUNNING else state, str(result.get("message", "")), float(result[METRIC]))

    def note_error(self, trial: Trial) -> None:
        """Keep what Ray says of a worker that failed: on_trial_complete is told of the failure alone."""
        file = Path(trial.error_file or "")
        self._errors[trial.trial_id] = file.read_text() if file.is_file() else ""

    def _why(self, trial_id: str, trial: optuna.Trial) -> str:
        """Why a trial has no worker any more, in a line; the whole goes into the trial's error.txt, where it has none of its own."""
        folder = self.run.trial(records.trial_id(trial.number))
        told = self._errors.pop(trial_id, "").strip()
        if not (folder / "error.txt").exists():
            write_error(folder, f"{told}\nRay's log files on the worker's node, in /tmp/ray/session_latest/logs, may tell more.\n")
        return read_end(folder) or f"The worker failed: {last_words(told)}"

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the journal is the record. Ray wants the file."""
        with open(checkpoint_path, "wb"):  # noqa: PTH123 - Ray gives a str
            pass

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Ray pickles the searcher into its experiment folder, from which nothing is ever restored."""
        return {}

    def _ask(self) -> optuna.Trial:
        if self._stale:
            stale = self._stale.pop(0)
            self.study.sampler = records.sampler(self.plan.seed, stale.number)
            return optuna.Trial(self.study, stale._trial_id)
        waiting = self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        number = waiting[0].number if waiting else len(self.study.get_trials(deepcopy=False))
        self.study.sampler = records.sampler(self.plan.seed, number)
        return self.study.ask()

    def _recipe(self, trial: optuna.Trial) -> dict[str, Any]:
        """All keys of the trial's recipe, kept in the study as well. Raises CallError where the space's overrides are none of a recipe."""
        told = trial.user_attrs
        if records.RECIPE in told:
            recipe: dict[str, Any] = told[records.RECIPE]
            return recipe
        preset_alone = told.get(records.ORIGIN) == records.PRESET
        # Asked of the preset too where its values lie in the space, so that the sampler learns from them; the recipe stays the preset's.
        overrides = {} if preset_alone and not self._fixed(trial) else self.plan.draw(trial)
        overrides = {} if preset_alone else overrides
        recipe = self.plan.recipe(overrides)
        trial.set_user_attr(records.OVERRIDES, dict(overrides))
        trial.set_user_attr(records.RECIPE, recipe)
        return recipe

    def _fixed(self, trial: optuna.Trial) -> Mapping[str, Any]:
        fixed: Mapping[str, Any] = self.study._storage.get_trial(trial._trial_id).system_attrs.get("fixed_params", {})
        return fixed

    def _end(self, trial: optuna.Trial, state: str, message: str, value: float | None = None) -> None:
        trial.set_user_attr(records.STATE, state)
        trial.set_user_attr(records.MESSAGE, message)
        if state in _INFEASIBLE:
            trial.set_constraint(state, 1.0)
        told = _TOLD.get(state, TrialState.PRUNED)
        self.study.tell(trial, value if told == TrialState.COMPLETE else None, state=told)

    @staticmethod
    def _never_called(trial: optuna.Trial) -> dict[str, Any]:
        raise AssertionError("suggest() asks the plan's space itself")


def last_words(text: str) -> str:
    """The line of Ray's text that says most: the last error's, else the first of the last failure."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if _ERROR.match(line)]
    began = max((at for at, line in enumerate(lines) if line.startswith("Failure #")), default=-1)
    return (errors or lines[began + 1 : began + 2] or ["Ray gave no reason."])[-1]
