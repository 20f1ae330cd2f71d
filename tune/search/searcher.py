"""StudySearch: the searcher that Ray asks for the next recipe and tells what happened to it; the study is its record.

Ray's own OptunaSearch is not used: it records a trial that ASHA stopped as complete, with its value at an early epoch,
and never reports a trial's last result. Here a trial that did not reach its recipe's last epoch is recorded as pruned,
with all its intermediate values; one that diverged or ran out of memory is infeasible as well, by a constraint, so that
TPE keeps away from there.

A trial that was running when its driver was killed is still RUNNING in the journal. It is resumed under the same
number, with the same parameters and in the same folder, before a new trial is begun. So no sampler sees a running trial
that nobody works on, and no trial is recorded twice.

No recipe is tried twice. If the sampler suggests one that was tried, it is asked again; if it knows no other, a recipe
is drawn at random; if the space has none left, the search ends.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState
from ray.tune.experiment import Trial
from ray.tune.search import Searcher

from maskcls import seeds
from maskcls.errors import MaskclsError
from maskcls.recipe import canonical_of
from tune.fitting import attempts
from tune.fitting.failures import read_end, write_error
from tune.fitting.node_watch import NodeWatch
from tune.fitting.request import RECIPE
from tune.runs import cluster
from tune.runs import study as records
from tune.runs.folder import SearchRun
from tune.runs.optuna_private import id_of, storage_of
from tune.runs.stored.keeping import Sender
from tune.search import points, samplers
from tune.search.first_trials import n_left
from tune.search.plan import GRID, RANDOM, SearchPlan
from tune.states import FIDELITY, METRIC, MODE, TrialState

_ERROR = re.compile(r"[\w.]*(Error|Exception): ")
ATTEMPTS = 20
"""How often the sampler is asked for a recipe that was not tried yet. After that, recipes are drawn at random."""
RANDOM_ATTEMPTS = 100
"""How often a recipe is drawn at random, in a space whose points cannot be listed."""


class StudySearch(Searcher):  # type: ignore[misc]
    """Suggests recipes of the plan's space to Ray, and records in the run's study what becomes of them.

    Args:
        plan: its space, base recipe, pinned values and seed are used.
        run: its journal must be mended and held (`RunFolder.driving`).
        sender: where the run is kept in a storage: brings what the worker of a trial has left on another node.
    """

    def __init__(self, plan: SearchPlan, run: SearchRun, sender: Sender | None = None) -> None:
        super().__init__(metric=METRIC, mode=MODE)
        self.plan, self.run = plan, run
        self._sender = sender
        self.nodes = NodeWatch(plan.cpus, plan.gpus, "trial")
        """Is informed of what fails on which node, and sets some aside."""
        self.study = records.open_study(run)
        self._storage = storage_of(self.study)
        # Each trial has a sampler of its own (`samplers.create`). The study's must not draw or note anything when a
        # trial is begun.
        self.study.sampler = optuna.samplers.RandomSampler(seed=plan.seed)
        self.trials: dict[str, optuna.Trial] = {}
        """Trials that were suggested, by Ray's ids."""
        self.ended: set[str] = set()
        """Ray's ids of the trials whose end is recorded."""
        self.error: MaskclsError | None = None
        self.full_disk = ""
        self.machine_failures: list[str] = []
        """Messages of the trials that failed by the machine since one has ended; none of these has."""
        self.used_up = False
        """Whether every recipe of the space was tried."""
        self.closed = False
        """Whether no further trial may begin."""
        self._left: set[str] = set()
        self._errors: dict[str, str] = {}
        self._lost_on: dict[str, str] = {}
        """By Ray's ids, the node on which the trial has lost its last worker."""
        self._begun_before: dict[str, int] = {}
        """By Ray's ids, when a worker had last begun the trial, before it was suggested; 0 if none had."""
        there = self.study.get_trials(deepcopy=False)
        self._stale = self._take_over(there)
        """Trials that a killed driver left running. They come first."""
        self._tried = {
            canonical_of(t.user_attrs[records.RECIPE])
            for t in there
            if records.RECIPE in t.user_attrs and records.is_own(t)
        }
        self._view = samplers.StudyView(self.study.study_name, self._storage)
        self._points: list[dict[str, Any]] | None = None
        self._spent: set[int] = set()

    def _take_over(self, there: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """Finish what a killed driver had begun to record, and return the trials that it left running."""
        stale = []
        for trial in there:
            if trial.state != OptunaState.RUNNING:
                continue
            if records.ENDING in trial.user_attrs:
                self._finish(optuna.Trial(self.study, id_of(trial)), trial.user_attrs[records.ENDING])
            elif records.is_own(trial):
                stale.append(trial)
            else:  # its driver was killed while it recorded it as a duplicate
                self.study.tell(trial.number, state=OptunaState.FAIL)
        return stale

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """Return the next trial's id and recipe.

        FINISHED if the search is closed, used up, or has met an error. None as long as another trial is wanted only if
        the machine fails one that is at work.
        """
        is_enough = self._is_enough()
        if is_enough and self._n_at_work() and not self.closed:
            return None
        try:
            found = None if is_enough or self.closed else self._next()
        except MaskclsError as error:
            self.error = error
            found = None
        if found is None:
            return Searcher.FINISHED  # type: ignore[no-any-return]
        self.trials[trial_id], recipe = found
        self._begun_before[trial_id] = self._begun_ns(found[0])
        return {"trial": records.trial_id(found[0].number), "recipe": recipe}

    def at_work(self) -> list[str]:
        """Ray's ids of the trials at work, without those that are left. One that waits for cores has no folder yet."""
        live = [key for key in self.trials if key not in self.ended and key not in self._left]
        # The folder of one on another node may be there alone.
        return [
            key
            for key in live
            if self._folder(self.trials[key]).exists() or self._frozen(self.trials[key]).intermediate_values
        ]

    def share_left(self, trial_id: str) -> float:
        """What part of a trial's epochs the study does not have yet, 0 to 1."""
        frozen = self._frozen(self.trials[trial_id])
        return 1 - max(frozen.intermediate_values, default=0) / int(frozen.user_attrs[records.RECIPE]["epochs"])

    def leave(self, trial_id: str) -> None:
        """Record no end when Ray stops this trial: it stays RUNNING in the study, and can be resumed."""
        self._left.add(trial_id)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Record the running best after an epoch. An epoch that a resumed trial reports again is ignored."""
        trial = self.trials[trial_id]
        epoch = int(result[FIDELITY])
        if epoch > 0 and epoch not in self._frozen(trial).intermediate_values:
            trial.report(float(result[METRIC]), epoch)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Record how a trial ended. Ray calls this without a result if a worker died and is not replaced."""
        if trial_id in self._left and result and METRIC in result:
            self.on_trial_result(trial_id, result)  # Ray passes a stopped trial's last result only to this method
        if trial_id in self.ended or trial_id in self._left:
            return
        trial = self.trials[trial_id]
        if result and result.get("state") in (TrialState.DISK_FULL, TrialState.MACHINE_FAILED):
            self._end_by_the_machine(trial_id, result)
            return
        if not result or METRIC not in result:
            self._end_without_result(trial_id, trial, error)
            return
        self._count_end(trial_id)
        state = str(result.get("state", TrialState.RUNNING))
        ending = {
            "epoch": int(result[FIDELITY]),
            "value": float(result[METRIC]),
            "seconds": round(float(result.get("seconds", 0.0)), 3),
            "state": TrialState.STOPPED_EARLY if state == TrialState.RUNNING else state,
            "message": str(result.get("message", "")),
        }
        # First, in one line of the journal. The rest takes several lines, and the driver may be killed between them.
        trial.set_user_attr(records.ENDING, ending)
        self._finish(trial, ending)

    def _count_end(self, trial_id: str) -> None:
        self.ended.add(trial_id)
        self.machine_failures.clear()

    def _end_by_the_machine(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """Let the trial be begun again, on another node if its own is set aside; a full disk of all ends the search."""
        node_id, why = str(result.get("node", "")), str(result["message"])
        if result["state"] == TrialState.DISK_FULL and not self.nodes.is_full(node_id, self.run.path):
            self.full_disk = why
            return
        self.machine_failures.append(why)
        self.hand_on(trial_id)
        if self.nodes.failed(node_id, why):
            self.machine_failures.clear()

    def hand_on(self, trial_id: str) -> None:
        """Let a trial that Ray stops be the next one that is suggested; in the study it goes on running."""
        self._left.add(trial_id)
        self._stale.append(self._frozen(self.trials[trial_id]))

    def _begun_ns(self, trial: optuna.Trial) -> int:
        """Return when a worker last began the trial, as its own file system has it; 0 if none has."""
        file = self._folder(trial) / RECIPE
        return file.stat().st_mtime_ns if file.exists() else 0

    def _is_enough(self) -> bool:
        """Whether as many trials have ended, or are at work, as are wanted.

        Ray asks for more, in place of those that the machine fails.
        """
        return not self._stale and n_left(self.study, self.plan.trials) <= self._n_at_work()

    def _n_at_work(self) -> int:
        return len(self.trials.keys() - self.ended - self._left)

    def note_error(self, trial: Trial) -> None:
        """Keep what Ray says about a worker that failed, before another one takes its trial over, or the trial ends.

        on_trial_complete gets no text.
        """
        file = Path(trial.error_file or "")
        text = self._errors[trial.trial_id] = file.read_text(errors="replace") if file.is_file() else ""
        if trial.trial_id in self.trials:
            # Each failure is appended to the file: earlier ones were noted.
            folder, said = self._folder(self.trials[trial.trial_id]), text.rpartition("Failure #")[2]
            self._note_death(folder, said)
            attempt = attempts.Attempt.read(folder)
            self._lost_on[trial.trial_id] = node_id = self.nodes.lost(folder.name, attempt, said, last_words(said))
            if self.nodes.must_leave(node_id):
                self.machine_failures.clear()

    def _note_death(self, folder: Path, said: str) -> None:
        """Add what Ray says of a worker's death to the note that it has left, for the worker that comes next."""
        if self._sender:
            self._sender.fetch(folder, attempts.NOTE)
        attempts.note_ray_killed(folder, said)
        if self._sender:
            self._sender.put(folder, attempts.NOTE)

    def _folder(self, trial: optuna.Trial) -> Path:
        return self.run.trial(records.trial_id(trial.number))

    def _end_without_result(self, trial_id: str, trial: optuna.Trial, error: bool) -> None:
        """Record the end of a trial that has reported none: its worker died, was not replaced again, or never began."""
        if self._sender:
            self._sender.fetch(self._folder(trial))
        why = self._explain(trial_id, trial) if error else "It reported nothing."
        short = attempts.killed_for_memory(self._folder(trial))
        if error and not short and self._begun_ns(trial) == self._begun_before[trial_id]:  # no worker has come to it
            if not self.nodes.must_leave(self._lost_on.get(trial_id, "")):
                self.machine_failures.append(why)
            self.hand_on(trial_id)
            return
        attempts.forget(self._folder(trial))
        self._count_end(trial_id)
        self._end(trial, TrialState.OUT_OF_MEMORY if short else TrialState.FAILED, short or why)

    def _explain(self, trial_id: str, trial: optuna.Trial) -> str:
        """Explain in one line why a trial lost its worker, and keep Ray's text in error.txt if the trial wrote none."""
        folder = self._folder(trial)
        text = self._errors.pop(trial_id, "").strip()
        if not (folder / "error.txt").exists():
            logs = f"Ray's log files on the worker's node, in {cluster.logs_folder()}, may tell more."
            write_error(folder, f"{text}\n{logs}\n")
        return read_end(folder) or f"The worker failed: {last_words(text)}"

    def save(self, checkpoint_path: str) -> None:
        """Write an empty file: Ray wants a file, but the journal is the record."""
        with open(checkpoint_path, "wb"):  # noqa: PTH123 - Ray gives a str
            pass

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing: Ray pickles the searcher into its experiment folder, from which nothing is ever restored."""
        return {}

    def _next(self) -> tuple[optuna.Trial, dict[str, Any]] | None:
        """Begin the next trial and return it with its recipe; None if every recipe was tried."""
        while True:
            trial = optuna.Trial(self.study, id_of(self._stale.pop(0))) if self._stale else self.study.ask()
            try:
                recipe = self._recipe(trial)
            except MaskclsError as error:
                self._end(trial, TrialState.FAILED, str(error))
                raise
            if recipe is not None:
                self._tried.add(canonical_of(recipe))
                return trial, recipe
            enqueued = bool(self._frozen(trial).system_attrs.get("fixed_params"))
            trial.set_user_attr(records.DUPLICATE, True)
            self.study.tell(trial, state=OptunaState.FAIL)
            if not enqueued:
                self.used_up = True
                return None

    def _recipe(self, trial: optuna.Trial) -> dict[str, Any] | None:
        """Find a recipe for the trial that was not tried, and record it in the study; None if every proposal was tried.

        Returns all keys of the recipe. Raises CallError if the space suggests values that are not valid in a recipe.
        """
        frozen = self._frozen(trial)
        if records.RECIPE in frozen.user_attrs:  # a killed driver recorded it
            recipe: dict[str, Any] = frozen.user_attrs[records.RECIPE]
            return recipe
        preset = frozen.user_attrs.get(records.ORIGIN) == records.PRESET
        if preset and not frozen.system_attrs.get("fixed_params"):  # the preset is not a point of the space
            return self._record(trial, None, {}, self.plan.recipe({}))
        for proposal in self._proposals(trial):
            overrides = self.plan.draw(proposal)
            # The preset is drawn from the space, so that the sampler learns from its values; its recipe stays the
            # preset's.
            overrides = {} if preset else overrides
            recipe = self.plan.recipe(overrides)
            if canonical_of(recipe) not in self._tried:
                return self._record(trial, proposal, overrides, recipe)
            if proposal.fixed:
                return None
        return None

    def _proposals(self, trial: optuna.Trial) -> Iterator[samplers.Proposal]:
        """Yield proposals for the trial: first the sampler's, then random ones or the points that are left."""
        number, seed = trial.number, self.plan.seed

        def propose(sampler: optuna.samplers.BaseSampler, point: Mapping[str, Any] | None = None) -> samplers.Proposal:
            return samplers.Proposal(self._view, id_of(trial), sampler, point)

        if self.plan.sampler != GRID:
            for attempt in range(ATTEMPTS):
                yield propose(
                    samplers.create(self.plan.sampler, seed, number, attempt, model_after=self.plan.model_after)
                )
        random = samplers.create(RANDOM, seed, number, ATTEMPTS)
        found = self._all_points()
        if not found and self.plan.sampler != GRID:
            for _ in range(RANDOM_ATTEMPTS):
                yield propose(random)
        order = list(range(len(found)))  # a grid is shuffled already
        if self.plan.sampler != GRID:
            order = seeds.generator(seed, number).permutation(len(found)).tolist()
        for at in order:
            if at not in self._spent:
                yield propose(random, found[at])
                self._spent.add(at)  # the caller asks for another one, so this one was tried

    def _all_points(self) -> list[dict[str, Any]]:
        """Return the points of the grid or of a finite space, always in the same order; none for an infinite space."""
        if self._points is None:
            plan = self.plan
            if plan.sampler == GRID:
                self._points = points.grid(plan.space, plan.setting, plan.seed)
            else:
                self._points = points.all_points(plan.space, plan.setting) or []
        return self._points

    def _record(
        self,
        trial: optuna.Trial,
        proposal: samplers.Proposal | None,
        overrides: Mapping[str, Any],
        recipe: dict[str, Any],
    ) -> dict[str, Any]:
        """Record the trial's parameters and recipe in the study, and return the recipe."""
        if proposal is not None:
            proposal.write()
        trial.set_user_attr(records.OVERRIDES, dict(overrides))
        trial.set_user_attr(records.RECIPE, recipe)
        return recipe

    def _frozen(self, trial: optuna.Trial) -> FrozenTrial:
        """Return the trial as the study has it now."""
        frozen: FrozenTrial = self._storage.get_trial(id_of(trial))
        return frozen

    def _finish(self, trial: optuna.Trial, ending: Mapping[str, Any]) -> None:
        """Record what follows from a trial's ENDING, as far as a killed driver has not done so."""
        if ending["epoch"] > 0 and ending["epoch"] not in self._frozen(trial).intermediate_values:
            trial.report(ending["value"], ending["epoch"])
        trial.set_user_attr(records.SECONDS, ending["seconds"])
        self._end(trial, TrialState(ending["state"]), ending["message"], ending["value"])

    def _end(self, trial: optuna.Trial, state: TrialState, message: str, value: float | None = None) -> None:
        """Record the trial's last state, ours and Optuna's."""
        records.end_trial(self.study, trial, state, message, value)


def last_words(text: str) -> str:
    """Return the line of Ray's text that says most: the last error's, otherwise the first line of the last failure."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if _ERROR.match(line)]
    began = max((at for at, line in enumerate(lines) if line.startswith("Failure #")), default=-1)
    return (errors or lines[began + 1 : began + 2] or ["Ray gave no reason."])[-1]
