"""Every file of a comparison's run, damaged at random: a resume and its table go on or say what is wrong."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from maskcls.data.dataset import FaceDataset
from maskcls.stores.cache_options import CacheOptions
from tests.conftest import ROOT
from tests.damaging import DAMAGE, damage, refused_or_done
from tune.compare.arms import repeat_splits
from tune.compare.fits import requests
from tune.compare.options import CompareOptions, resolve
from tune.compare.results import read_results
from tune.fitting.curve import read_curve
from tune.runs.cluster import Cluster, Node
from tune.runs.folder import ComparisonRun
from tune.upkeep.inventory import summaries

KEPT = ROOT / "tests" / "legacy" / "comparison"
FILES = (
    *("comparison.json", "data/photos.csv", "data/split.json", "data/repeats/*.json", "fits/*/result.json"),
    *("fits/*/answers.csv", "fits/*/epochs.jsonl"),
)
UNDISTURBED = (HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large)


def read(runs: Path) -> int:
    """Read what a resume and the table read; return how many fits are scored."""
    summaries(runs)
    run = ComparisonRun.open("comparison", runs)
    options = CompareOptions(resume="comparison", runs=runs).resumed(run)
    plan = resolve(options, Cluster((Node(1, 0.0),)))
    faces = FaceDataset.load(run.data, CacheOptions(runs))
    splits = repeat_splits(run, faces, plan.repeats, plan.folds, options.split_seed)
    asked = requests(run, plan.comparisons, splits, faces.digest, folds=plan.folds, cpus=1, gpus=0.0)
    for request in asked:
        read_curve(request.folder)
    return sum(row.n for row in read_results(run, plan.comparisons, splits, faces).rows)


def check(pattern: str, how: tuple[str, int]) -> None:
    with tempfile.TemporaryDirectory() as place:
        run = Path(shutil.copytree(KEPT, Path(place) / "comparison"))
        damage(sorted(run.glob(pattern))[0], how)
        with refused_or_done():
            read(run.parent)


@given(pattern=st.sampled_from(FILES), how=DAMAGE)
@settings(max_examples=25, deadline=None, suppress_health_check=UNDISTURBED, derandomize=True)
def test_a_damaged_file_of_a_comparison_costs_a_message(pattern: str, how: tuple[str, int]) -> None:
    check(pattern, how)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@given(pattern=st.sampled_from(FILES), how=DAMAGE)
@settings(max_examples=500, deadline=None, suppress_health_check=UNDISTURBED)
def test_five_hundred_damaged_files_of_comparisons_cost_a_message_each(pattern: str, how: tuple[str, int]) -> None:
    check(pattern, how)


def test_the_whole_comparison_is_read(tmp_path: Path) -> None:
    """Else the tests above would pass because nothing is read."""
    shutil.copytree(KEPT, tmp_path / "comparison")
    assert read(tmp_path) == 3
