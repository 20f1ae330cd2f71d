"""The one way to run a fit in a Ray worker: of a trial, a repeat, a finished winner, all people or a comparison."""

from __future__ import annotations

import json
import logging
import shutil
import traceback
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from maskcls.errors import Damaged, OutOfMemory, RunError
from maskcls.files import set_aside, write_atomically
from maskcls.machine import default_loader_workers, give_back_memory, set_threads, use_deterministic_kernels
from maskcls.text import counted
from maskcls.training.conditions import HARDWARE, at_epoch, segments, whole_batch
from maskcls.training.fit_data import FitData
from tune.fitting import attempts
from tune.fitting.attempts import halved
from tune.fitting.curve import CURVE, NO_EPOCH, curve, read_curve
from tune.fitting.failures import (
    exit_if_cuda_is_broken,
    explain,
    free_memory,
    read_end,
    state_of,
    write_error,
)
from tune.fitting.gauges import FitGauges
from tune.fitting.log_lines import naming_the_fit
from tune.fitting.request import RECIPE, FitRequest, Row, Rows, Work
from tune.states import FIDELITY, TrialState

if TYPE_CHECKING:
    from maskcls.data.dataset import FaceDataset
    from maskcls.stores.cache_options import CacheOptions
    from maskcls.training.fit import Fit
    from maskcls.training.result import EpochResult

log = logging.getLogger("maskcls")

NO_SCORE = 0.0
"""The validation F1 in the rows of a fit without validation people: a curve wants a number.

No bundle and no page shows it.
"""

NOTES = ("frozen_features", "wait_share", "feature_hits", "saved_s", "filling_s", "micro_batch", "message")
"""What a row says besides the epoch's numbers."""

HAS_ERRORS = "has_errors"
"""Among the values of a complete fit: error.txt has errors that did not end it, and is to be kept."""

Report = Callable[[Row, TrialState, str], None]
"""Called with an epoch's row, the state that the fit is in with it, and a message."""


class After:
    """What is made of a fit besides its curve. This one makes nothing."""

    def before_fit(self, request: FitRequest, dataset: FaceDataset) -> None:
        """Called once in a worker, before the checkpoint is read."""

    def before_saving(self, fit: Fit, result: EpochResult, is_new: bool) -> None:
        """Called after each epoch, before the checkpoint says that it is done; `is_new`: not read from a checkpoint."""

    def result(self, fit: Fit, request: FitRequest, dataset: FaceDataset) -> dict[str, Any]:
        """What result.json holds besides state, epochs and time; `message` and HAS_ERRORS are not written there.

        Larger things are written into the request's folder.
        """
        return {}


class Treatment(Protocol):
    """A change of a fit that no recipe can say (`tune.compare.treatments`)."""

    keeps_features: bool
    """Whether features of frozen stages are those of an untreated fit."""

    def data(self, faces: FaceDataset, data: FitData, generator: np.random.Generator) -> FitData:
        """The data that the fit is given in place of `data`."""
        ...

    def prepared(self, fit: Fit) -> None:
        """Change the fit before its checkpoint is read."""
        ...


@dataclass(frozen=True)
class FitOutcome:
    """How a fit ended in its worker."""

    state: TrialState
    message: str = ""
    last: Row = field(default_factory=lambda: dict(NO_EPOCH))
    """The last row of its curve."""
    values: dict[str, Any] = field(default_factory=dict)
    """What the work returned; empty unless the fit is complete."""
    node: str = ""
    """Ray's id of the node that it ran on; "" where that does not matter."""


def run_fit(
    request: FitRequest,
    *,
    cache: CacheOptions,
    after: After | None = None,
    treatment: Treatment | None = None,
    shared: bool = True,
) -> Rows:
    """Run one fit from its last checkpoint to its last epoch; yield one row per epoch, return what `after` makes of it.

    What its numbers depend on besides recipe and data is noted in the checkpoint's folder
    (`maskcls.training.conditions`). If a whole batch does not fit into the memory, the fit goes on in micro-batches.

    Args:
        cache: where decoded photos and frozen features are kept.
        shared: whether other fits will want the same frozen features.

    Raises Diverged; OutOfMemory where not even single photos fit, and torch's error where the model itself does not.
    """
    set_threads(max(1, request.cpus))  # for each fit again: Ray's workers are reused
    use_deterministic_kernels()
    cache.limits.apply()
    with _memory_given_back():
        return (yield from _fit(request, cache, after or After(), treatment, shared))


def _fit(request: FitRequest, cache: CacheOptions, after: After, treatment: Treatment | None, shared: bool) -> Rows:
    # Other fits of the run may use all the room that decoded photos have. A fit uses those of one size, so none waits
    # for one that waits for it.
    dataset = request.dataset(replace(cache, waits=True))
    request.take_trials_checkpoint()
    after.before_fit(request, dataset)
    fit = yield from _smaller_until_it_fits(request, dataset, after, treatment, shared)
    return after.result(fit, request, dataset)


def _smaller_until_it_fits(
    request: FitRequest, dataset: FaceDataset, after: After, treatment: Treatment | None, shared: bool
) -> Generator[Row, None, Fit]:
    """Yield each epoch's row once, and return the fit.

    After running out of memory, go on in micro-batches of half the size.
    """
    build = _Builder(request, dataset, treatment, shared)
    whole = whole_batch(build.recipe)
    (micro_batch, validation_block), yielded = _first_sizes(request, whole), 0
    while True:
        attempts.note_micro_batch(request.folder, micro_batch)
        fit = build(micro_batch, validation_block)
        last = int(request.recipe["epochs"])
        hook = _Hook(after, request.folder)
        epochs = fit.epochs(request.checkpoint_folder, last=last, before_saving=hook)
        try:
            for result in epochs:
                if result.epoch > yielded:
                    yielded = result.epoch
                    yield _row(result, fit, request, whole)
            return fit
        except Exception as error:
            # OutOfMemory comes from validation, which takes smaller blocks by itself, or from loading the checkpoint.
            in_training = not hook.is_running and not isinstance(error, OutOfMemory)
            if not in_training or state_of(error) != TrialState.OUT_OF_MEMORY:
                raise
            validation_block = fit.validation_block
            del fit, epochs
            free_memory(error)
            if micro_batch == 1:
                raise OutOfMemory(f"Not even the smallest part of a batch fits. {error}") from error
        micro_batch = halved(micro_batch)


class _Hook:
    """Calls `before_saving`, and knows whether an error came from there: smaller batches in training would not help.

    Nothing is saved where another worker has taken the fit over: then the process ends.
    """

    def __init__(self, after: After, folder: Path) -> None:
        self._after, self._folder = after, folder
        self.is_running = False

    def __call__(self, fit: Fit, result: EpochResult, is_new: bool) -> None:
        attempts.exit_if_superseded(self._folder)
        self.is_running = True
        self._after.before_saving(fit, result, is_new)
        self.is_running = False


class _Builder:
    """Builds the request's fit, for a micro-batch."""

    def __init__(self, request: FitRequest, dataset: FaceDataset, treatment: Treatment | None, shared: bool) -> None:
        self.recipe = request.fit_recipe()
        self.device = "cuda" if request.gpus > 0 else "cpu"
        self.loader_workers = default_loader_workers(self.device, request.cpus)
        self.data, self.treatment = FitData.of(dataset, self.recipe), treatment
        if treatment is not None:
            # Depends on the split alone, so that a fit that was killed is given the same data again.
            generator = np.random.default_rng(int(dataset.split.digest, 16))
            self.data = treatment.data(dataset, self.data, generator)
        # A treatment may change what the digest of the photos does not tell; then its features are its own.
        is_own = treatment is not None and not treatment.keeps_features
        self.stores = None if is_own else dataset.feature_stores(shared=shared)

    def __call__(self, micro_batch: int, validation_block: int) -> Fit:
        from maskcls.training.fit import Fit

        fit = Fit(
            self.recipe,
            self.data,
            self.device,
            self.loader_workers,
            stores=self.stores,
            micro_batch=micro_batch,
            validation_block=validation_block,
        )
        if self.treatment is not None:
            self.treatment.prepared(fit)
        return fit


def _first_sizes(request: FitRequest, whole: int) -> tuple[int, int]:
    """Return the micro-batch and the validation block that the fit, or its recipe's trial, had come to.

    What did not fit is not tried again.
    """
    own = segments(request.checkpoint_folder)
    of_trial = segments(request.trial_folder) if request.trial_folder else []
    recorded = own[-1:] or of_trial
    attempt = attempts.Attempt.read(request.folder)
    killed = [attempt.most] if attempt and attempt.most else []  # what a worker was killed with is not tried again
    micro_batch = min([whole, *killed, *(segment.conditions.micro_batch for segment in recorded)])
    return micro_batch, recorded[-1].conditions.validation_block if recorded else 0


def _row(result: EpochResult, fit: Fit, request: FitRequest, whole: int) -> Row:
    """Return the epoch's numbers and notes. One that was read from a checkpoint keeps the notes of its row on disk."""
    row = result.to_row()
    if not fit.data.is_scored:
        row |= {"validation_f1": NO_SCORE, "scores": None}
    if result.epoch <= fit.resumed_epochs:
        recorded = next((one for one in read_curve(request.folder) if one[FIDELITY] == result.epoch), None)
        if recorded is not None:
            return {**row, **{name: recorded[name] for name in NOTES if name in recorded}}
    return {**row, **_notes(result.epoch, fit, request, whole)}


def _notes(epoch: int, fit: Fit, request: FitRequest, whole: int) -> Row:
    """Say whether frozen features are kept, and the epoch's micro-batch, if whole batches did not fit."""
    notes = fit.notes()
    conditions = at_epoch(segments(request.checkpoint_folder), epoch)
    if conditions is None:
        return notes
    if conditions.validation_block:
        in_blocks = f"validated in blocks of {counted(conditions.validation_block, 'photo')}: more did not fit"
        notes["message"] = "; ".join(filter(None, (in_blocks, notes.get("message"))))
    if conditions.micro_batch >= whole:
        return notes
    too_large = whole
    while halved(too_large) > conditions.micro_batch:
        too_large = halved(too_large)
    split = f"in micro-batches of {conditions.micro_batch}: {too_large} did not fit"
    message = "; ".join(filter(None, (split, notes.get("message"))))
    return {**notes, "micro_batch": conditions.micro_batch, "message": message}


def run_and_report(request: FitRequest, work: Work, report: Report | None = None) -> FitOutcome:
    """Run a worker's work to its end, whatever end that is, and report every epoch and an end that is bad.

    Writes recipe.json and the curve into the request's folder, and error.txt if the work fails. An error that leaves
    the process unable to use its GPU ends the process: Ray tries the fit again in a new one, which only says how it
    ended.
    """
    report = report or (lambda row, state, message: None)
    _set_aside_damaged(request)
    reason = read_end(request.folder)
    if reason:
        last = (read_curve(request.folder) or [NO_EPOCH])[-1]
        report({**NO_EPOCH, **last, "finished": False}, TrialState.FAILED, reason)
        return FitOutcome(TrialState.FAILED, reason)
    last, values = dict(NO_EPOCH), {}

    def kept(asked: FitRequest) -> Iterator[Row]:
        values.update((yield from _while_ours(work(asked), request.folder)))

    try:
        _prepare_folder(request)
        done = len(read_curve(request.folder))
        with (
            attempts.noted(request.folder),
            naming_the_fit(request.run.name, request.trial_id),
            FitGauges(request.run.name, request.trial_id, request.recipe) as gauges,
        ):
            for last in curve(request, kept):
                gauges.set(last, is_new=int(last[FIDELITY]) > done)
                state = TrialState.COMPLETE if last["finished"] else TrialState.RUNNING
                # Ray may end this thread here, by SystemExit, so nothing may be left to do for this epoch.
                report(last, state, str(last.get("message", "")))
        if not last.get("finished"):
            raise RunError(f"The fit ended after epoch {last[FIDELITY]} of {request.recipe['epochs']}.")
        return FitOutcome(TrialState.COMPLETE, str(values.get("message", "")), last, values)
    except Exception as error:
        state, message = state_of(error), explain(error)
        if state != TrialState.DISK_FULL:
            write_error(request.folder, traceback.format_exc())
        exit_if_cuda_is_broken(request.folder, error, state, message)
        free_memory(error)
        report({**last, "finished": False}, state, message)
        return FitOutcome(state, message, last)


def _while_ours(rows: Rows, folder: Path) -> Rows:
    """Yield the rows; the process ends before the first that comes when another worker has taken the fit over."""
    with closing(rows):
        while True:
            try:
                row = next(rows)
            except StopIteration as end:
                return dict(end.value or {})
            attempts.exit_if_superseded(folder)
            yield row


def _set_aside_damaged(request: FitRequest) -> None:
    """Set aside a curve and conditions that cannot be read: the fit's checkpoint has what they held, except times."""
    for folder, name, read in (
        (request.folder, CURVE, read_curve),
        (request.checkpoint_folder, HARDWARE, segments),
    ):
        try:
            read(folder)
        except Damaged as error:
            with suppress(OSError):  # a fit that cannot write there fails, and says why
                log.warning("%s Set aside as %s.", error, set_aside(folder / name))


def _prepare_folder(request: FitRequest) -> None:
    request.folder.mkdir(parents=True, exist_ok=True)
    for litter in request.folder.glob(".*.tmp"):  # of a worker that was killed while it wrote: a file, or a bundle
        if litter.is_dir():
            shutil.rmtree(litter, ignore_errors=True)
        else:
            litter.unlink(missing_ok=True)
    # Need not wait for the disk: the journal, or the request, has it as well.
    write_atomically(request.folder / RECIPE, json.dumps(request.recipe, indent=2) + "\n", wait=False)


@contextmanager
def _memory_given_back() -> Iterator[None]:
    """Give free memory back after the block: Ray's worker lives on, and other processes want it."""
    try:
        yield
    finally:
        give_back_memory()
