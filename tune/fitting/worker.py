"""The real objective: a fit of the run's photos, in micro-batches where a whole batch does not fit into the memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskcls import machine
from maskcls.errors import OutOfMemory
from maskcls.stores.arrays import CacheOptions
from maskcls.training.conditions import told_of
from tune.fitting.failures import free_memory, state_of
from tune.fitting.request import TrialRequest
from tune.runs.folder import SearchRun
from tune.states import TrialState

if TYPE_CHECKING:
    from maskcls.recipe import Recipe
    from maskcls.stores.features import FeatureStores
    from maskcls.training.fit import Fit
    from maskcls.training.fit_data import FitData
    from maskcls.training.result import EpochResult


def fit_trial(request: TrialRequest, *, cache: CacheOptions, shared: bool) -> Iterator[dict[str, Any]]:
    """Its state lies in the trial's folder and is whole after every epoch; beside it, what its numbers hang on
    (`maskcls.training.conditions`), so that `maskcls.train --trial` gives them again.

    Args:
        cache: where decoded photos and frozen features are kept.
        shared: whether other trials will want the same frozen features.
    """
    from maskcls.data.dataset import FaceDataset
    from maskcls.machine import default_loader_workers, set_threads, use_deterministic_kernels
    from maskcls.recipe import Recipe
    from maskcls.training.fit_data import FitData

    threads, device = max(1, request.cpus), "cuda" if request.gpus > 0 else "cpu"
    set_threads(threads)  # to keep to the trial's share of the cores; said anew for each trial, for actors are reused
    use_deterministic_kernels()
    recipe = Recipe.model_validate(request.recipe)
    faces = FaceDataset.load(SearchRun(request.run).data, cache)
    data = FitData.of(faces, recipe)
    stores = faces.feature_stores(shared=shared)
    workers = default_loader_workers(device, request.cpus)
    fitting = ShrinkingFit(
        recipe, data, request.folder, device=device, threads=threads, loader_workers=workers, stores=stores
    )
    try:
        for result in fitting.epochs():
            yield {**told_of(result), **fitting.told(result.epoch)}
    finally:
        del fitting
        machine.give_back_memory()  # the actor lives on, and others want it


class ShrinkingFit:
    """A fit kept in a folder. Where it runs out of memory, it is taken up from there in micro-batches of half the size.

    One that is begun again in the folder begins with the micro-batch that it had come to.
    """

    def __init__(
        self,
        recipe: Recipe,
        data: FitData,
        folder: Path,
        *,
        device: str,
        threads: int,
        loader_workers: int,
        stores: FeatureStores | None = None,
    ) -> None:
        from maskcls.training.conditions import segments, whole_batch

        self.recipe, self.data, self.folder = recipe, data, folder
        self.device, self.threads, self.loader_workers = device, threads, loader_workers
        self.stores = stores
        self.whole = whole_batch(recipe)
        before = segments(folder)
        self.micro_batch = min(before[-1].conditions.micro_batch, self.whole) if before else self.whole
        self._features = self._cache_trouble = ""
        self._told = 0

    def epochs(self) -> Iterator[EpochResult]:
        """Each epoch once, those that are done first, as they were; a new one is kept before it is yielded.

        Raises Diverged; OutOfMemory where not even single photos fit, and torch's error where the model itself does not.
        """
        while True:
            fit = self._begun()
            try:
                yield from self._rest_of(fit)
                return
            except Exception as error:
                if state_of(error) != TrialState.OUT_OF_MEMORY:
                    raise
                del fit
                free_memory(error)
                if self.micro_batch == 1:
                    raise OutOfMemory(f"Not even one photo at a time fits. {error}") from error
            self.micro_batch = halved(self.micro_batch)

    def told(self, epoch: int) -> dict[str, Any]:
        """For the row of the epoch that was yielded last: whether frozen features are kept; its micro-batch, where whole batches did not
        fit; and a message on that, and on a cache that can't be used.
        """
        split, messages = self._split_of(epoch), [self._cache_trouble]
        if split:
            micro_batch, too_large = split
            messages.insert(0, f"in micro-batches of {micro_batch}: {too_large} did not fit")
        row: dict[str, Any] = {"frozen_features": self._features}
        row |= {"micro_batch": split[0]} if split else {}
        message = "; ".join(filter(None, messages))
        return {**row, "message": message} if message else row

    def _split_of(self, epoch: int) -> tuple[int, int] | None:
        """An epoch's micro-batch, and the least that was too large; None where whole batches went through the model."""
        from maskcls.training.conditions import at_epoch, segments

        conditions = at_epoch(segments(self.folder), epoch)
        if conditions is None or conditions.micro_batch >= self.whole:
            return None
        too_large = self.whole
        while halved(too_large) > conditions.micro_batch:
            too_large = halved(too_large)
        return conditions.micro_batch, too_large

    def _begun(self) -> Fit:
        from maskcls.training.conditions import Conditions, note
        from maskcls.training.fit import Fit

        fit = Fit(
            self.recipe, self.data, self.device, self.loader_workers, micro_batch=self.micro_batch, stores=self.stores
        )
        fit.resume(self.folder)
        here = Conditions.now(
            self.recipe,
            self.data.digest,
            device=self.device,
            threads=self.threads,
            loader_workers=self.loader_workers,
            micro_batch=self.micro_batch,
        )
        note(self.folder, here, done=len(fit.history), epochs=self.recipe.epochs)
        return fit

    def _rest_of(self, fit: Fit) -> Iterator[EpochResult]:
        done = len(fit.history)
        for result in fit.epochs():
            if result.epoch > done:
                fit.save(self.folder)
            if result.epoch > self._told:
                self._told, self._features, self._cache_trouble = result.epoch, fit.frozen_features, fit.cache_trouble
                yield result


def halved(micro_batch: int) -> int:
    """Half of it, rounded up."""
    return -(-micro_batch // 2)
