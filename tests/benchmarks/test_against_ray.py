"""The benchmark against plain Ray Tune runs one search on both sides, can be continued, and records its figures."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maskcls.data.demo.folder import draw
from maskcls.data.sampling import DrawStream
from maskcls.models.model import build_models
from maskcls.recipe import Recipe
from maskcls.training.model_fit import rate_factor
from maskcls.training.presets import preset
from tests.benchmarks import against_ray, plain_ray
from tests.benchmarks.plain_ray import Classifier
from tests.commands import call

FIGURES = ("seconds", "cpu_s", "machine_cpu_s", "peak_pss_mb", "seconds_an_epoch")


@pytest.mark.soak
@pytest.mark.timeout(600)  # two searches, each with a Ray of its own
def test_both_sides_search_and_are_recorded(tmp_path: Path) -> None:
    draw(tmp_path / "faces", 20, seed=0)
    out = tmp_path / "against_ray.json"
    words = [
        "--case",
        "nothing-frozen",
        "--trials",
        "2",
        "--epochs",
        "1",
        "--rounds",
        "1",
        "--image-size",
        "32",
        "--out",
        out,
    ]
    said = call(against_ray.main, *words, "--data", tmp_path / "faces")
    assert said.status == 0, said.err
    assert "F1, ours less plain" in said.out
    record = json.loads(out.read_text())
    settings, results = record["settings"], record["results"]
    assert (settings["trials"], settings["epochs"], settings["stores"], settings["weights"]) == (2, 1, "cold", "none")
    assert settings["train_photos"] > settings["validation_photos"] > 0
    assert {"ray", "optuna", "torchvision"} <= set(settings["versions"])
    ours, plain = (results["sides"][side] for side in (against_ray.OURS, against_ray.PLAIN))
    for name in FIGURES:
        assert results["plain Ray Tune / tune.search"][name]["values"] == [plain[name]["mean"] / ours[name]["mean"]]
        assert min(ours[name]["mean"], plain[name]["mean"]) > 0
    assert ours["seconds_an_epoch"]["mean"] == ours["seconds"]["mean"] / 2
    assert math.isclose(results["F1, ours less plain"]["mean"], ours["f1"]["mean"] - plain["f1"]["mean"])
    first = {side: trials[0][0]["overrides"] for side, trials in results["trials"].items()}
    for side, trials in results["trials"].items():
        assert [trial["epochs"] for trial in trials[0]] == [1, 1]
        assert max(trial["f1"] for trial in trials[0]) == results["sides"][side]["f1"]["mean"]
    assert first[against_ray.PLAIN]["lr_head"] > 0
    assert not out.with_suffix(".rounds.jsonl").exists()


def test_it_continues_where_it_was_interrupted_but_not_with_other_settings(tmp_path: Path) -> None:
    out, settings, values = tmp_path / "record.json", {"case": "heads", "trials": 3}, {"seconds": 2.0, "f1": 0.5}
    against_ray.Rounds(out, settings).add(against_ray.OURS, 1, values)
    again = against_ray.Rounds(out, settings)
    assert again.has(against_ray.OURS, 1)
    assert not again.has(against_ray.OURS, 0)
    assert not again.has(against_ray.PLAIN, 1)
    again.add(against_ray.PLAIN, 1, values)
    assert not against_ray.Rounds(out, {**settings, "trials": 4}).has(against_ray.OURS, 1)
    assert [len(each) for each in _both(out, settings).values()] == [1, 1]


def _both(out: Path, settings: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    rounds = against_ray.Rounds(out, settings)
    for side in (against_ray.OURS, against_ray.PLAIN):
        rounds.add(side, 0, {"seconds": 1.0, "f1": 0.25})
    return rounds.values(1)


def test_an_unknown_case_is_refused() -> None:
    said = call(against_ray.main, "--case", "everything")
    assert said.status != 0
    assert "--case is one of freezing, heads, nothing-frozen, but got 'everything'" in said.err


class TestPlainSide:
    """The plain side trains the recipe's fit, written in another way."""

    def test_what_is_frozen_stands_still_as_in_our_model(self) -> None:
        recipe = Recipe().override({"backbone": "resnet10t", "weights": "none", "frozen_stages": 3, "image_size": 32})
        (ours,) = build_models(recipe, pretrained=False)
        ours.train()
        plain = Classifier(recipe, None).train()
        assert moving(plain.backbone) == moving(ours.backbone.model)
        assert 0 < len(moving(plain.backbone)) < len(list(plain.backbone.parameters()))
        modes = {
            name: module.training for name, module in ours.backbone.model.named_modules() if not list(module.children())
        }
        assert {name: plain.backbone.get_submodule(name).training for name in modes} == modes
        assert set(modes.values()) == {True, False}

    def test_its_rates_and_draws_are_the_recipes(self) -> None:
        recipe = preset("contest-2021", "cpu").override({"epochs": 4, "warmup_epochs": 0.5})
        steps = 10
        expected = [rate_factor(recipe, step / steps) for step in range(4 * steps + 1)]
        assert [plain_ray.rate_factor(step, steps, recipe) for step in range(4 * steps + 1)] == pytest.approx(expected)
        labels = [0, 0, 0, 0, 5, 5, 17]
        draws = plain_ray.Draws(recipe, labels)
        draws.epoch = 2
        assert list(draws) == DrawStream(np.array(labels), 18, "oversample", recipe.seed, 0).epoch(2)[0].tolist()
        assert len(draws) == len(labels)


def moving(model: Any) -> set[str]:
    """The parameters that are trained."""
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}
