"""Backbones are ranked before any is trained, the run keeps the order, and the first trials follow it."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch

import search_spaces
from maskcls.data.dataset import prepare
from maskcls.models.backbones import create_backbone
from maskcls.stores.cache_options import CacheOptions
from maskcls.training.presets import base_recipe
from search_spaces import Setting, Space
from tests.conftest import DemoFaces
from tune.runs import events
from tune.runs.folder import SearchRun
from tune.runs.record import RankedRecord, SearchRecord, now
from tune.runs.stopping import Reason
from tune.search.plan import SearchPlan, size_of
from tune.search.ranking import rank, share_of, to_rank

NAMES = ("test_resnet", "test_efficientnet")
SPACE = Space(
    "two",
    "Which of two?",
    lambda trial, setting: {"backbone": trial.suggest_categorical("backbone", NAMES)},
    backbones=lambda setting: NAMES,
)


def plan_of(space: Space, setting: Setting, weights: str = "hub") -> SearchPlan:
    explicit = {"weights": weights, "image_size": 32}
    return SearchPlan(space, setting, base_recipe("faces-2026", setting.scale, explicit, demo=False), explicit)


def test_only_a_choice_of_trained_backbones_is_ranked() -> None:
    space = search_spaces.get("backbones")
    few = Setting("cpu", lambda backbone: backbone in ("resnet10t", "mobilenetv3_small_100"))
    assert to_rank(plan_of(space, few)) == ["resnet10t", "mobilenetv3_small_100"]
    base = plan_of(space, few).base.override({"backbone": "mobilenetv3_small_100"})
    assert to_rank(replace(plan_of(space, few), base=base)) == ["mobilenetv3_small_100", "resnet10t"], "its own first"
    assert to_rank(plan_of(space, Setting("cpu", lambda backbone: backbone == "resnet10t"))) == []
    assert to_rank(plan_of(space, Setting("cpu", pretrained=False))) == []
    assert to_rank(plan_of(space.pinned({"backbone": "resnet10t"}), few)) == []
    assert to_rank(plan_of(search_spaces.get("freezing"), few)) == []


def test_a_backbone_is_ranked_at_the_presets_size_or_at_its_only_one() -> None:
    plan = plan_of(search_spaces.get("backbones"), Setting("gpu"))
    assert size_of(plan, "resnet50.a1_in1k") == 32
    assert size_of(plan, "vit_small_patch16_224.augreg_in21k_ft_in1k") == 224


def test_the_order_is_that_of_the_probes_and_the_run_keeps_it(
    ray_cluster: str, demo_faces: DemoFaces, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tmp_path / "weights"
    weights.mkdir()
    for name in NAMES:
        state = create_backbone(name, weights="none", frozen_stages=0, image_size=32).model.state_dict()
        safetensors.torch.save_file(state, weights / f"{name}.safetensors")
    cache = CacheOptions(tmp_path / "cache")
    faces = prepare(demo_faces(24, 4), cache=cache)
    run = SearchRun.create(tmp_path / "runs", "ranked", SearchRecord(created=now()))
    faces.save(run.data)
    plan = plan_of(SPACE, Setting("cpu"), str(weights))
    with events.streamed(lines := io.StringIO()):
        outcome, order = rank(plan, run, cache)
    assert lines.getvalue() == "", "a ranking is no fit of which the guide tells"
    assert outcome.reason == Reason.FINISHED
    kept = run.record().ranking
    assert kept is not None
    assert order == tuple(each.backbone for each in kept)
    assert set(order) == set(NAMES)
    scores = [each.f1 for each in kept if each.f1 is not None]
    assert len(scores) == 2
    assert scores == sorted(scores, reverse=True)
    printed = capsys.readouterr().out
    assert printed.index(order[0]) < printed.rindex(order[1])
    assert "probe F1" in printed


def test_the_ranking_has_a_tenth_of_the_time_and_of_little_time_more() -> None:
    assert [share_of(budget_s) for budget_s in (None, 3600.0, 300.0, 180.0, 30.0)] == [None, 360.0, 30.0, 30.0, 15.0]


def test_a_backbone_without_a_score_comes_last(tmp_path: Path) -> None:
    """The time may be up before all are ranked. Whoever opens the run again finds the order that it had."""
    run = SearchRun.create(tmp_path, "one", SearchRecord(created=now()))
    ranking = [RankedRecord(backbone="b", f1=0.3, logme=-0.5), RankedRecord(backbone="a")]
    run.write_record(run.record().changed(ranking=ranking))
    again = run.record().ranking
    assert again == ranking
    setting = replace(Setting("cpu"), ranking=tuple(each.backbone for each in again or ()))
    assert setting.ranked(("a", "c", "b")) == ["b", "a", "c"]
