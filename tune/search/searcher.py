"""StudySearch: the adapter over Ray's OptunaSearch that asks a space for recipes and tells the study how each trial ended.

What it mends: OptunaSearch tells a trial that ASHA stopped as complete, with its low-epoch value, and never reports a trial's last
result. Here a trial that did not come to its recipe's last epoch is told as pruned, with all its intermediate values; one that
diverged or did not fit into memory is infeasible too, by a constraint, so that TPE keeps away from there.

A trial that was running when its driver was killed is still RUNNING in the journal. It is taken up as it is, before anything new
is asked: same number, same parameters, same folder. So the sampler never sees a trial that nobody works on, and none stands twice.

No recipe is tried twice: where the sampler suggests one that was, it is asked again; where it knows no other, one is drawn at random;
where there is none left, the search ends.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState
from ray.tune.experiment import Trial
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from maskcls import seeds
from maskcls.errors import MaskclsError
from tune.fitting.failures import read_end, write_error
from tune.runs import study as records
from tune.runs.folder import SearchRun
from tune.search import points, samplers
from tune.search.plan import GRID, RANDOM, SearchPlan
from tune.states import FIDELITY, METRIC, MODE, TrialState

_TOLD = {TrialState.COMPLETE: OptunaState.COMPLETE, TrialState.FAILED: OptunaState.FAIL}
_ERROR = re.compile(r"[\w.]*(Error|Exception): ")
_INFEASIBLE = (TrialState.DIVERGED, TrialState.OUT_OF_MEMORY)
ATTEMPTS = 20
"""How often the sampler is asked before a trial is drawn at random, which is tried RANDOM_ATTEMPTS times."""
RANDOM_ATTEMPTS = 100


class StudySearch(OptunaSearch):  # type: ignore[misc]
    """Args:
    plan: its space, base recipe, pinned values and seed are used.
    run: its journal must be mended and held (`RunDir.driving`).
    """

    def __init__(self, plan: SearchPlan, run: SearchRun) -> None:
        self.plan, self.run = plan, run
        self.study = records.open_study(run)
        super().__init__(
            space=self._never_called,
            metric=METRIC,
            mode=MODE,
            storage=self.study._storage,
            study_name=self.study.study_name,
            sampler=optuna.samplers.RandomSampler(seed=plan.seed),  # asked nothing: each trial has a sampler of its own
        )
        self.study = self._ot_study
        self.error: MaskclsError | None = None
        self.full_disk = ""
        self.used_up = False
        """Whether every recipe of the space was tried."""
        self.closed = False
        """Whether to begin no trial any more."""
        self._left: set[str] = set()
        self._errors: dict[str, str] = {}
        there = self.study.get_trials(deepcopy=False)
        self._stale: list[FrozenTrial] = []
        for trial in there:
            if trial.state != OptunaState.RUNNING:
                continue
            if records.ENDING in trial.user_attrs:
                self._finish(optuna.Trial(self.study, trial._trial_id), trial.user_attrs[records.ENDING])
            elif records.is_own(trial):
                self._stale.append(trial)
            else:  # its driver was killed while it withdrew it
                self.study.tell(trial.number, state=OptunaState.FAIL)
        self._tried = {
            _key(t.user_attrs[records.RECIPE]) for t in there if records.RECIPE in t.user_attrs and records.is_own(t)
        }
        self._seen = samplers.StudyView(self.study.study_name, self.study._storage)
        self._points: list[dict[str, Any]] | None = None
        self._spent: set[int] = set()

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """The next trial's id and complete recipe. Ends the search where it is closed, or the space gives none (`error`, `used_up`)."""
        try:
            found = None if self.closed else self._next()
        except MaskclsError as error:
            self.error = error
            found = None
        if found is None:
            return Searcher.FINISHED  # type: ignore[no-any-return]
        self._ot_trials[trial_id], recipe = found
        return {"trial": records.trial_id(found[0].number), "recipe": recipe}

    def working(self) -> bool:
        """Whether a trial that is not left has begun. One that waits for room has no folder yet."""
        live = self._ot_trials.keys() - self._completed_trials - self._left
        return any(self.run.trial(records.trial_id(self._ot_trials[key].number)).exists() for key in live)

    def leave(self, trial_id: str) -> None:
        """Tell the study nothing of this trial's end, which is none: a resumed search takes it up again."""
        self._left.add(trial_id)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Report the running best after an epoch. An epoch that a resumed trial reports again is passed over."""
        trial = self._ot_trials[trial_id]
        epoch = int(result[FIDELITY])
        if epoch > 0 and epoch not in self.study._storage.get_trial(trial._trial_id).intermediate_values:
            trial.report(float(result[METRIC]), epoch)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell the study how a trial ended. Ray calls this without a result where a worker died for good."""
        if trial_id in self._left and result and METRIC in result:
            self.on_trial_result(trial_id, result)  # Ray tells the last result of a trial that is stopped here alone
        if trial_id in self._completed_trials or trial_id in self._left:
            return
        trial = self._ot_trials[trial_id]
        if result and result.get("state") == TrialState.DISK_FULL:
            self.full_disk = str(result["message"])
            return
        self._completed_trials.add(trial_id)
        if not result or METRIC not in result:
            self._end(trial, TrialState.FAILED, self._why(trial_id, trial) if error else "It reported nothing.")
            return
        state = str(result.get("state", TrialState.RUNNING))
        ending = {
            "epoch": int(result[FIDELITY]),
            "value": float(result[METRIC]),
            "seconds": round(float(result.get("seconds", 0.0)), 3),
            "state": TrialState.STOPPED_EARLY if state == TrialState.RUNNING else state,
            "message": str(result.get("message", "")),
        }
        trial.set_user_attr(
            records.ENDING, ending
        )  # first, for the rest is many lines of the journal, and a kill may fall between them
        self._finish(trial, ending)

    def note_error(self, trial: Trial) -> None:
        """Keep what Ray says of a worker that failed: on_trial_complete is told of the failure alone."""
        file = Path(trial.error_file or "")
        self._errors[trial.trial_id] = file.read_text() if file.is_file() else ""

    def _why(self, trial_id: str, trial: optuna.Trial) -> str:
        """Why a trial has no worker any more, in a line; the whole goes into the trial's error.txt, where it has none of its own."""
        folder = self.run.trial(records.trial_id(trial.number))
        told = self._errors.pop(trial_id, "").strip()
        if not (folder / "error.txt").exists():
            write_error(
                folder,
                f"{told}\nRay's log files on the worker's node, in /tmp/ray/session_latest/logs, may tell more.\n",
            )
        return read_end(folder) or f"The worker failed: {last_words(told)}"

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the journal is the record. Ray wants the file."""
        with open(checkpoint_path, "wb"):  # noqa: PTH123 - Ray gives a str
            pass

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Ray pickles the searcher into its experiment folder, from which nothing is ever restored."""
        return {}

    def _next(self) -> tuple[optuna.Trial, dict[str, Any]] | None:
        """The next trial and its recipe; None where every recipe was tried."""
        while True:
            trial = optuna.Trial(self.study, self._stale.pop(0)._trial_id) if self._stale else self.study.ask()
            try:
                recipe = self._recipe(trial)
            except MaskclsError as error:
                self._end(trial, TrialState.FAILED, str(error))
                raise
            if recipe is not None:
                self._tried.add(_key(recipe))
                return trial, recipe
            enqueued = bool(self._frozen(trial).system_attrs.get("fixed_params"))
            trial.set_user_attr(records.DUPLICATE, True)
            self.study.tell(trial, state=OptunaState.FAIL)
            if not enqueued:
                self.used_up = True
                return None

    def _recipe(self, trial: optuna.Trial) -> dict[str, Any] | None:
        """All keys of the trial's recipe, kept in the study as well; None where each that is suggested was tried.

        Raises CallError where the space's overrides are none of a recipe.
        """
        told = self._frozen(trial).user_attrs
        if records.RECIPE in told:
            recipe: dict[str, Any] = told[records.RECIPE]
            return recipe
        preset = told.get(records.ORIGIN) == records.PRESET
        if preset and not self._frozen(trial).system_attrs.get("fixed_params"):  # no point of the space
            return self._keep(trial, None, {}, self.plan.recipe({}))
        for draft in self._drafts(trial):
            overrides = self.plan.draw(draft)
            # The preset is asked of the space, so that the sampler learns from its values; its recipe stays the preset's.
            overrides = {} if preset else overrides
            recipe = self.plan.recipe(overrides)
            if _key(recipe) not in self._tried:
                return self._keep(trial, draft, overrides, recipe)
            if draft.fixed:
                return None
        return None

    def _drafts(self, trial: optuna.Trial) -> Iterator[samplers.Proposal]:
        """Drafts of the trial, the sampler's best first. A finite space's last ones are all that it has left."""
        number, seed = trial.number, self.plan.seed

        def draft(sampler: optuna.samplers.BaseSampler, point: Mapping[str, Any] | None = None) -> samplers.Proposal:
            return samplers.Proposal(self._seen, trial._trial_id, sampler, point)

        if self.plan.sampler != GRID:
            for attempt in range(ATTEMPTS):
                yield draft(samplers.create(self.plan.sampler, seed, number, attempt))
        by_chance = samplers.create(RANDOM, seed, number, ATTEMPTS)
        if self._points is None:
            grid = self.plan.sampler == GRID
            found = (
                points.grid(self.plan.space, self.plan.setting, seed)
                if grid
                else points.all_points(self.plan.space, self.plan.setting)
            )
            self._points = found or []
        if not self._points and self.plan.sampler != GRID:
            for _ in range(RANDOM_ATTEMPTS):
                yield draft(by_chance)
        shuffled = seeds.generator(seed, number).permutation(len(self._points))
        for at in range(len(self._points)) if self.plan.sampler == GRID else shuffled.tolist():
            if at not in self._spent:
                yield draft(by_chance, self._points[at])
                self._spent.add(at)  # asked for another: this one was tried

    def _keep(
        self, trial: optuna.Trial, draft: samplers.Proposal | None, overrides: Mapping[str, Any], recipe: dict[str, Any]
    ) -> dict[str, Any]:
        if draft is not None:
            draft.write()
        trial.set_user_attr(records.OVERRIDES, dict(overrides))
        trial.set_user_attr(records.RECIPE, recipe)
        return recipe

    def _frozen(self, trial: optuna.Trial) -> FrozenTrial:
        frozen: FrozenTrial = self.study._storage.get_trial(trial._trial_id)
        return frozen

    def _finish(self, trial: optuna.Trial, ending: Mapping[str, Any]) -> None:
        """Tell the study of an end that it knows of, as far as it is not told."""
        if ending["epoch"] > 0 and ending["epoch"] not in self._frozen(trial).intermediate_values:
            trial.report(ending["value"], ending["epoch"])
        trial.set_user_attr(records.SECONDS, ending["seconds"])
        self._end(trial, TrialState(ending["state"]), ending["message"], ending["value"])

    def _end(self, trial: optuna.Trial, state: TrialState, message: str, value: float | None = None) -> None:
        trial.set_user_attr(records.STATE, state.value)
        trial.set_user_attr(records.MESSAGE, message)
        if state in _INFEASIBLE:
            trial.set_constraint(state.value, 1.0)
        told = _TOLD.get(state, OptunaState.PRUNED)
        self.study.tell(trial, value if told == OptunaState.COMPLETE else None, state=told)

    @staticmethod
    def _never_called(trial: optuna.Trial) -> dict[str, Any]:
        raise AssertionError("suggest() asks the plan's space itself")


def _key(recipe: Mapping[str, Any]) -> str:
    """Equal for equal recipes, seeds included."""
    return json.dumps(recipe, sort_keys=True)


def last_words(text: str) -> str:
    """The line of Ray's text that says most: the last error's, else the first of the last failure."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if _ERROR.match(line)]
    began = max((at for at, line in enumerate(lines) if line.startswith("Failure #")), default=-1)
    return (errors or lines[began + 1 : began + 2] or ["Ray gave no reason."])[-1]
