"""What Optuna's dashboard is shown of a run: its study as the journal has it, and beside each trial what else is known.

The journal is the search's, and only read here. It cannot hold all of this: Optuna refuses attributes of a trial that
has ended, and a winner is known only then. So the winner, its repeats and its holdout score, each recipe as a table and
the confusion matrices are added when the dashboard asks, and nothing of it is written.

`dashboard:...` and `artifacts:...` are the keys by which optuna-dashboard and optuna.artifacts find notes and files.
"""

from __future__ import annotations

import copy
import io
import json
import logging
from collections.abc import Container
from typing import Any, BinaryIO

import optuna
from optuna.artifacts.exceptions import ArtifactNotFound
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

from maskcls.errors import DataError, RunError
from maskcls.text import first
from tune.dashboard import details
from tune.dashboard.confusion import confusion_png, predictions_of, trials_with_predictions
from tune.dashboard.parameters import KnownParameters
from tune.runs.folder import SearchRun
from tune.runs.optuna_private import id_of
from tune.runs.study import METRIC_NAME, current, trial_id
from tune.selection.record import ChoiceRecord, read_choice

NOTED = 300
"""Trials that have a note with their recipe: the dashboard looks for each trial's note among those of all trials."""


CONFUSION_FILE = "confusion-matrix.png"


class _ReadOnlyJournal(JournalFileBackend):  # type: ignore[misc]
    """A journal that is never written."""

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        raise RunError("The run is only shown, and nothing is written into its study.")


class RunView(optuna.storages.JournalStorage):  # type: ignore[misc]
    """A storage that holds the run's study as it is now, with more attributes; writing raises RunError.

    Raises RunError where the run has no study yet.
    """

    def __init__(self, run: SearchRun) -> None:
        if not run.journal.exists():
            raise RunError(f"{run.name} has not begun a trial yet: its photos are being prepared. Try again later.")
        optuna.logging.set_verbosity(logging.ERROR)
        self._run = run
        self._known = KnownParameters(run)
        self._choice: tuple[int, ChoiceRecord | None] = (0, None)
        self._drawn_for: tuple[ChoiceRecord | None, frozenset[str]] = (None, frozenset())
        super().__init__(_ReadOnlyJournal(str(run.journal)))
        if not self.get_all_studies():
            raise RunError(f"{run.name} has not begun a trial yet. Try again later.")

    def get_all_studies(self) -> list[Any]:
        """Return the run's study alone: a search that went on in a wider space has earlier ones in its journal."""
        study = current(super().get_all_studies())
        if study is None:
            return []
        study_id = self.get_study_id_from_name(study.study_name)
        study.user_attrs = self.get_study_user_attrs(study_id)
        study.system_attrs = self.get_study_system_attrs(study_id)
        return [study]

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        """Return what the study's page says of the run."""
        return {**super().get_study_user_attrs(study_id), **details.of_run(self._run, self.choice)}

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        """Return the study's own attributes, the metric's name, and the notes with recipes."""
        attrs = {"study:metric_names": [METRIC_NAME], **super().get_study_system_attrs(study_id)}
        for trial in self._noted(study_id):
            key = f"dashboard:{id_of(trial)}"
            attrs |= {f"{key}:note_ver": 1, f"{key}:note_str:0": details.recipe_table(trial)}
        return attrs

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[OptunaState] | None = None
    ) -> list[FrozenTrial]:
        """Return the study's trials with what is known of each."""
        choice = self.choice
        return [self._shown(trial, choice) for trial in super().get_all_trials(study_id, deepcopy, states)]

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """Return one trial with what is known of it."""
        return self._shown(super().get_trial(trial_id), self.choice)

    @property
    def choice(self) -> ChoiceRecord | None:
        """The choice among finalists, read again when search.json has changed; None where there is none."""
        changed = self._run.record_file.stat().st_mtime_ns
        if self._choice[0] != changed:
            self._choice = (changed, read_choice(self._run.record()))
        return self._choice[1]

    def _shown(self, trial: FrozenTrial, choice: ChoiceRecord | None) -> FrozenTrial:
        shown = copy.copy(trial)  # the storage's own trial stays as it is
        shown.user_attrs = details.of_trial(trial, choice)
        point, differs = self._known.of(trial)
        if point is not None:
            shown.params, shown.distributions = point.params, point.distributions
            shown.user_attrs |= {"outside_the_space": first(differs, 6)} if differs else {}
        own_id = trial_id(trial.number)
        if own_id in self._drawn(choice):
            meta = {"artifact_id": own_id, "filename": CONFUSION_FILE, "mimetype": "image/png", "encoding": None}
            shown.system_attrs = {**trial.system_attrs, f"artifacts:{own_id}": json.dumps(meta)}
        return shown

    def _drawn(self, choice: ChoiceRecord | None) -> frozenset[str]:
        """Return the trials that have a confusion matrix, found again for another choice."""
        if self._drawn_for[0] is not choice:
            self._drawn_for = (choice, trials_with_predictions(self._run))
        return self._drawn_for[1]

    def _noted(self, study_id: int) -> list[FrozenTrial]:
        """Return the trials that have a note: those with the best value, and as many of the latest."""
        trials = super().get_all_trials(study_id, deepcopy=False)
        scored = [trial for trial in trials if trial.intermediate_values]
        best = sorted(scored, key=lambda trial: -max(trial.intermediate_values.values()))[: NOTED // 2]
        return list({trial.number: trial for trial in (*best, *trials[-NOTED // 2 :])}.values())


class Drawings:
    """A store of artifacts whose files are drawn when they are asked for: a confusion matrix by its trial's id."""

    def __init__(self, run: SearchRun) -> None:
        self._run = run

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """Return the drawing as a PNG file. Raises ArtifactNotFound where the trial has no complete repeat."""
        try:
            truth, predictions = predictions_of(self._run, artifact_id)
        except DataError as error:
            raise ArtifactNotFound(str(error)) from None
        if not len(truth):
            raise ArtifactNotFound(f"No repeat of trial {artifact_id} is complete.")
        return io.BytesIO(
            confusion_png(truth, predictions, f"Trial {artifact_id}, its repeats' validation people, likeliest classes")
        )

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Refuse: a run is only shown."""
        raise RunError("The run is only shown, and no file is added to it.")

    def remove(self, artifact_id: str) -> None:
        """Refuse: a run is only shown."""
        raise RunError("The run is only shown, and no file is taken from it.")
