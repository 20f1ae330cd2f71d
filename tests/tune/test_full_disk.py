"""A disk that is full at each kind of write: a clear message, what was whole stays so, and the same again goes on."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from maskcls.cli import disk_message
from maskcls.data.dataset import FaceDataset
from maskcls.data.geometry import Geometry
from maskcls.data.pixels import open_or_build
from maskcls.errors import MaskclsError
from maskcls.files import append_line
from maskcls.stores.cache_options import CacheOptions
from maskcls.stores.features import FeatureStores, Key
from tests.full_disk import contents, empty, fill, small_disk
from tests.tune.selection.small_run import BASE, add_trial, fitted, small_run
from tests.tune.selection.test_keeping import save
from tune.fitting.curve import CURVE, read_curve
from tune.fitting.result import FitResult
from tune.report.page import write_report
from tune.runs.folder import SearchRun
from tune.runs.study import open_study, records
from tune.selection.export import export_trial
from tune.selection.finalists import Design, repeat_requests
from tune.selection.fits import repeat_fit
from tune.states import TrialState

MEGABYTES = 24


@dataclass(frozen=True)
class Place:
    """A disk, the run on it, its photos, and a cache elsewhere."""

    disk: Path
    run: SearchRun
    faces: FaceDataset
    cache: Path


@pytest.fixture
def place(tmp_path: Path, demo_cache: Path) -> Iterator[Place]:
    with small_disk(tmp_path / "disk", MEGABYTES) as disk:
        run, faces = small_run(disk, demo_cache)
        add_trial(run, [0.3, 0.5], {"frozen_stages": 0, "epochs": 2})
        save(run.trial("0000"), 0.3, 1)
        append_line(run.trial("0000") / CURVE, json.dumps({"epoch": 1, "validation_f1": 0.3, "best_f1": 0.3}))
        run.write_record(run.record())
        yield Place(disk, run, faces, demo_cache)


def checkpoint(place: Place) -> None:
    save(place.run.trial("0000"), 0.5, 2)


def curve(place: Place) -> None:
    for epoch in range(1000):  # more than what is left of the file's last block
        append_line(place.run.trial("0000") / CURVE, json.dumps({"epoch": epoch + 1, "validation_f1": 0.5}))


def journal(place: Place) -> None:
    study = open_study(place.run)
    trial = study.ask()
    for epoch in range(100):  # more than what is left of the file's last block
        trial.report(0.5, epoch)


def search_json(place: Place) -> None:
    place.run.write_record(place.run.record().changed(notes=["a note"] * 1000))


def pixel_store(place: Place) -> None:
    files, keys = (place.faces.photos[name].tolist() for name in ("file", "key"))
    open_or_build(files, keys, Geometry(32), place.disk / "cache", 1.0)


def feature_store(place: Place) -> None:
    FeatureStores(place.disk / "cache").open(Key({"view": 0}, 100, (64,), torch.float32))


def repeat(place: Place) -> None:
    design = Design(1, 2)
    request = repeat_requests(place.run, records(place.run), place.faces, design, cpus=1, gpus=0.0)[0]
    outcome = fitted(request, functools.partial(repeat_fit, cache=CacheOptions(place.cache)))
    if outcome.state == TrialState.DISK_FULL:
        assert FitResult.read(request.folder) is None
        raise MaskclsError(outcome.message)
    assert outcome.state == TrialState.COMPLETE
    assert len(read_curve(request.folder)) == BASE.epochs


def bundle(place: Place) -> None:
    export_trial(place.run, "0000", place.run.best, overwrite=True, calibrates=False)


def report(place: Place) -> None:
    write_report(place.run)


WRITES: dict[Callable[[Place], None], str] = {
    checkpoint: r"(best-2\.safetensors|state\.pt) could not be written",
    curve: r"epochs\.jsonl could not be written",
    journal: r"study\.journal could not be written",
    search_json: r"search\.json could not be written",
    pixel_store: r"The decoded photos need .* but the disk of .* has .* left",
    feature_store: r"The frozen features need .* but the disk of .* has .* left",
    repeat: "No space left on device",
    bundle: r"could not be written",
    report: r"report\.html could not be written",
}


def said(error: BaseException) -> str:
    """What a command prints of the error."""
    return disk_message(error) if isinstance(error, OSError) else str(error)


@pytest.mark.parametrize("write", WRITES, ids=lambda write: write.__name__)
def test_nothing_is_lost_and_the_same_again_goes_on(place: Place, write: Callable[[Place], Any]) -> None:
    if write is bundle:
        bundle(place)  # one that is there, and is to be replaced
        save(place.run.trial("0000"), 0.5, 2)
    before = contents(place.disk)
    fill(place.disk)
    with pytest.raises((OSError, MaskclsError)) as caught:
        write(place)
    message = said(caught.value)
    assert re.search(WRITES[write], message), message
    after, known = contents(place.disk), set(before)
    for file in (place.run.journal, place.run.trial("0000") / CURVE):  # which grow by lines
        name = str(file.relative_to(place.disk))
        assert after[name].startswith(before.pop(name))
        assert file is not place.run.journal or after[name].endswith(b"}\n"), "a line is whole, or not there"
        assert all(json.loads(line) for line in file.read_text().split("\n")[:-1])
    assert {name: after[name] for name in before} == before
    new = [name for name in after.keys() - known if not name.endswith((".lock", ".gitignore"))]
    assert new == [], "no part of a file stays"
    empty(place.disk)
    write(place)
    assert np.isfinite(records(place.run)[0].f1 or np.nan)
