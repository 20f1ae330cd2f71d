"""A fit as a Ray worker is asked for it: recipe, photos, people, folder, and its share of the machine."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskcls.files import FileKind
from maskcls.recipe import Recipe
from maskcls.training.checkpoint_files import STATE_FILE
from tune.fitting.shipping import ShippedPixels
from tune.runs.folder import SearchRun

if TYPE_CHECKING:
    from maskcls.data.dataset import FaceDataset
    from maskcls.data.splits import Split
    from maskcls.stores.cache_options import CacheOptions

Row = dict[str, Any]
"""An epoch for a curve: `epoch` from 1 on, `validation_f1`, and what else is known of it; ready for JSON."""
Rows = Generator[Row, None, dict[str, Any]]
"""One row per epoch, those that are done already again; then what the result is to hold besides, ready for JSON."""

RECIPE = "recipe.json"
"""In a fit's folder, every key of its recipe."""
RECIPE_FILE = FileKind("a recipe: a JSON object", "Move the folder {folder} away to leave this fit out.")
EVERYBODY = "train and validation"
"""A request's split: the run's train and validation people together are trained on, and nobody validates."""


@dataclass(frozen=True)
class FitRequest:
    """One fit of a run, with a folder of its own."""

    trial_id: str
    """Names the fit within its run."""
    recipe: dict[str, Any]
    """Every key of a Recipe. `epochs` is how many are trained."""
    folder: Path
    run: Path
    cpus: int
    """Cores, and so threads."""
    gpus: float
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What the fit's result.json says of what was asked; ready for JSON."""
    label: str = ""
    """A few words for people who watch."""
    split: str = ""
    """Who trains and who validates: a file in the run's folder, or EVERYBODY; "" is the run's own split."""
    schedule_epochs: int | None = None
    """The epochs that the learning-rate schedule is made for, where the fit stops before them."""
    trial: str = ""
    """The search's trial that the recipe comes from. The fit begins with the micro-batch that this one ended with."""
    repeat: int | None = None
    """Which repeat of its trial, or of its variant, it is, from 0; None: it is no repeat."""
    continues_trial: bool = False
    """Whether the fit goes on from that trial's checkpoint, until it has one of its own."""
    keeps_checkpoint: bool = False
    """Whether the checkpoint stays when the fit is complete, so that its model can be exported."""

    @property
    def is_reported(self) -> bool:
        """Whether events tell of it: none do of a pass that ranks a backbone, which is of no trial and no repeat."""
        return bool(self.trial) or self.repeat is not None

    @property
    def checkpoint_folder(self) -> Path:
        """Where the fit keeps what it needs to resume. Taken away at the end, unless `keeps_checkpoint`."""
        return self.folder / "state"

    @property
    def trial_folder(self) -> Path | None:
        """The folder of the trial that the recipe comes from."""
        return SearchRun(self.run).trial(self.trial) if self.trial else None

    def fit_recipe(self) -> Recipe:
        """The recipe that is fitted, with the epochs of its schedule."""
        epochs = self.schedule_epochs or self.recipe["epochs"]
        return Recipe.model_validate({**self.recipe, "epochs": epochs})

    def dataset(self, cache: CacheOptions) -> FaceDataset:
        """The run's photos under the request's split."""
        from maskcls.data.dataset import FaceDataset  # loads pandas and OpenCV, which a driver has no need of

        dataset = replace(FaceDataset.load(SearchRun(self.run).data, cache), source=ShippedPixels(self.run))
        return replace(dataset, split=self._split(dataset.split)) if self.split else dataset

    def _split(self, own: Split) -> Split:
        from maskcls.data.splits import Split

        if self.split == EVERYBODY:
            return Split(tuple(sorted((*own.train, *own.validation))), (), own.holdout)
        return Split.load(self.run / self.split)

    def take_trials_checkpoint(self) -> None:
        """Copy the trial's checkpoint, if the fit continues the trial and has none of its own.

        The trial's folder stays. Where its checkpoint is lost, the fit begins at the first epoch, with the same result.
        """
        own, of_trial = self.checkpoint_folder, SearchRun(self.run).trial(self.trial)
        if self.continues_trial and not (own / STATE_FILE).exists() and (of_trial / STATE_FILE).exists():
            shutil.copytree(of_trial, own, dirs_exist_ok=True)


class TrialRequest(FitRequest):
    """A trial of a search.

    Its checkpoint lies in its folder, so that it can be exported and trained further, as long as the search keeps it
    (`tune.selection.keeping`).
    """

    @property
    def checkpoint_folder(self) -> Path:
        return self.folder


Work = Callable[[FitRequest], Rows]
"""What a worker does for a request: `tune.fitting.worker.run_fit`, or a test's quicker function. May raise Diverged and
OutOfMemory. `message` in a row, or in what it returns, is shown beside the fit."""
