"""What another run knows is imported (`--learn-from`), where it is a point of this run's space."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial

from maskcls.data.dataset import SPLIT
from maskcls.data.splits import Split
from search_spaces import Setting, Space, Suggest, get
from tests.tune.asked import begin, plan_of, search
from tests.tune.rungs import rungs_of
from tests.tune.searches import SETTING, new_run, table
from tests.tune.synthetic import Synthetic
from tests.tune.two_spaces import (
    NARROW,
    WIDE,
    WIDE_DISTRIBUTIONS,
    decades_off,
    ended_every_way,
    learnt_of,
    outcome_of,
    wide,
)
from tune.runs.record import DataRecord, SearchRecord
from tune.runs.stopping import Outcome, Reason
from tune.runs.study import IMPORTED, is_own, open_study, records
from tune.search import samplers, schedulers
from tune.search.driver import run_search
from tune.search.first_trials import enqueue_initial_trials, n_left
from tune.search.plan import RANDOM, TPE
from tune.search.warm_start import KnownTrials, OutsideError, import_trials, place
from tune.states import TrialState

# --- A point of a space


def test_a_place_is_all_that_a_space_asks_for_and_nothing_else() -> None:
    values = {
        "lr_head": 1,
        "head": "linear",
        "frozen_stages": 3.0,
        "label_smoothing": 0,
        "lr_body": 1e-4,
        "batch_size": 64,
    }
    placed = place(WIDE, SETTING, values)
    assert placed.params == {key: value for key, value in values.items() if key != "batch_size"}
    assert placed.distributions == WIDE_DISTRIBUTIONS


def test_what_hangs_on_another_value_is_wanted_only_where_it_is_asked_for() -> None:
    values = {"lr_head": 1e-3, "head": "mlp", "frozen_stages": 5, "label_smoothing": 0.1}
    placed = place(WIDE, SETTING, values)
    assert "lr_body" not in placed.params
    assert "lr_body" not in placed.distributions
    with pytest.raises(OutsideError, match="^lr_body$"):
        place(WIDE, SETTING, {**values, "frozen_stages": 4})
    beside = place(WIDE, SETTING, {**values, "lr_body": 1.0})
    assert beside.params == placed.params, "a value that is not asked for may be anything"


@pytest.mark.parametrize(
    "wrong",
    [
        {"lr_head": 1.1},
        {"lr_head": 9e-7},
        {"lr_head": math.nan},
        {"lr_head": "0.001"},
        {"lr_head": None},
        {"head": "none"},
        {"head": 0},
        {"frozen_stages": 6},
        {"frozen_stages": -1},
        {"frozen_stages": 2.5},
        {"frozen_stages": "2"},
        {"label_smoothing": -0.1},
    ],
)
def test_a_value_outside_its_domain_has_no_place(wrong: dict[str, Any]) -> None:
    inside = {"lr_head": 1e-3, "head": "mlp", "frozen_stages": 2, "label_smoothing": 0.1, "lr_body": 1e-4}
    assert place(WIDE, SETTING, inside).params == inside
    for values in ({**inside, **wrong}, {key: value for key, value in inside.items() if key not in wrong}):
        with pytest.raises(OutsideError, match=f"^{next(iter(wrong))}$"):
            place(WIDE, SETTING, values)


def test_no_value_is_not_the_choice_none() -> None:
    space = Space("none", "?", lambda trial, setting: {"mood": trial.suggest_categorical("mood", (None, "good"))})
    assert place(space, SETTING, {"mood": None}).params == {"mood": None}
    with pytest.raises(OutsideError, match="^mood$"):
        place(space, SETTING, {})


# --- Another run's trials


def test_trials_are_learnt_as_points_of_this_space(tmp_path: Path) -> None:
    old, new, plan = ended_every_way(tmp_path), new_run(tmp_path, "new"), plan_of(WIDE, 3)
    study = open_study(new)
    enqueue_initial_trials(study, plan)
    (imported,) = import_trials(study, plan, [old.path], new)
    assert str(imported) == "Learnt from old: 15 of 15 trials with a score are known to this space."
    source, copies = open_study(old).get_trials(), learnt_of(new)
    assert [int(copy.user_attrs[IMPORTED].rpartition("/")[2]) for copy in copies] == [n for n in range(16) if n != 4], (
        "all but what failed"
    )
    for copy in copies:
        was = source[int(copy.user_attrs[IMPORTED].rpartition("/")[2])]
        assert outcome_of(copy) == outcome_of(was)
        assert copy.params == {**was.params, "label_smoothing": plan.base.label_smoothing}
        assert copy.distributions == {name: WIDE_DISTRIBUTIONS[name] for name in copy.params}
    assert {number: copies[at].constraints for at, number in ((2, 2), (3, 3))} == {
        2: {TrialState.DIVERGED: 1.0},
        3: {TrialState.DIVERGED: 1.0},
    }
    assert copies[3].intermediate_values == {}


def test_a_trial_that_is_no_point_of_this_space_is_not_learnt(tmp_path: Path) -> None:
    def loose(trial: Suggest, setting: Setting) -> dict[str, Any]:
        return {key: value for key, value in wide(trial, setting).items() if key != "label_smoothing"}

    old, new = new_run(tmp_path, "old"), new_run(tmp_path, "new")
    search(plan_of(Space("loose", "?", loose), 12), old)
    study, plan = open_study(new), plan_of(NARROW, 3)
    inside = [
        record.trial_id
        for record in records(old)
        if record.recipe["head"] == "mlp"
        and 1e-5 <= record.recipe["lr_head"] <= 0.1
        and record.recipe["frozen_stages"] >= 1
        and (record.recipe["frozen_stages"] == 5 or 1e-5 <= record.recipe["lr_body"] <= 1e-3)
    ]
    assert 0 < len(inside) < 12
    (imported,) = import_trials(study, plan, [old.path], new)
    assert (imported.trials.known, imported.trials.of) == (len(inside), 12)
    assert [copy.user_attrs[IMPORTED] for copy in learnt_of(new)] == [f"{old.path}/{name}" for name in inside]


def test_a_trial_whose_recipe_differs_where_this_space_asks_nothing_is_not_learnt(tmp_path: Path) -> None:
    """All that `freezing` asks for has a value in a trial of another backbone, and yet it is another fit."""
    old, new = new_run(tmp_path, "old"), new_run(tmp_path, "new")
    search(plan_of(get("backbones"), 40, sampler=RANDOM), old)
    plan = plan_of(get("freezing"), 4, learn_from=(old.path,))
    same = [
        record.trial_id
        for record in records(old)
        if (record.recipe["backbone"], record.recipe["image_size"]) == (plan.base.backbone, plan.base.image_size)
    ]
    assert 0 < len(same) < 40
    (imported,) = import_trials(open_study(new), plan, plan.learn_from, new)
    assert [copy.user_attrs[IMPORTED] for copy in learnt_of(new)] == [f"{old.path}/{name}" for name in same]
    others = [record.recipe for record in records(old) if record.trial_id not in same]
    backbones = sum(recipe["backbone"] != plan.base.backbone for recipe in others)
    sizes = sum(recipe["image_size"] != plan.base.image_size for recipe in others)
    assert str(imported) == (
        f"Learnt from old: {len(same)} of 40 trials with a score are known to this space; what differs: "
        f"backbone ({backbones}), image_size ({sizes})."
    )


def test_seeds_alone_make_no_other_point(tmp_path: Path) -> None:
    old, new = ended_every_way(tmp_path), new_run(tmp_path, "new")
    plan = plan_of(WIDE, 2)
    plan = replace(plan, base=plan.base.override({"seed": 5, "augmentation_seed": 6}))
    (imported,) = import_trials(open_study(new), plan, [old.path], new)
    assert imported.trials == KnownTrials(15, 15)


def test_what_is_learnt_counts_for_nobody(tmp_path: Path) -> None:
    old, new = ended_every_way(tmp_path), new_run(tmp_path, "new")
    plan = plan_of(WIDE, 3, learn_from=(old.path,))
    searcher = begin(plan, new)
    assert n_left(searcher.study, 3) == 3
    assert records(new) == []
    search(plan, new)
    assert [record.origin for record in records(new)] == ["preset", "sampled", "sampled"]
    assert records(new)[0].trial_id == "0000"
    assert records(new)[0].recipe == plan.recipe({})
    assert n_left(open_study(new), 3) == 0
    fresh = schedulers.EpochASHA(4)
    fresh.replay(trial for trial in open_study(new).get_trials() if is_own(trial))
    assert [len(values) for _, values in rungs_of(fresh)] == [3] * len(rungs_of(fresh))


def test_a_resume_learns_nothing_twice_and_what_is_new_once(tmp_path: Path) -> None:
    old, new = ended_every_way(tmp_path), new_run(tmp_path, "new")
    plan = plan_of(WIDE, 3, learn_from=(old.path,))
    search(plan, new)
    before = learnt_of(new)
    (imported,) = import_trials(open_study(new), plan, plan.learn_from, new)
    assert imported.trials == KnownTrials(15, 15)
    assert learnt_of(new) == before
    search(plan_of(NARROW, 18), old)
    begin(plan, new)
    assert [copy.user_attrs[IMPORTED] for copy in learnt_of(new)[15:]] == [f"{old.path}/0016", f"{old.path}/0017"]


def test_what_another_run_learnt_is_not_learnt_at_second_hand(tmp_path: Path) -> None:
    old, middle, new = ended_every_way(tmp_path), new_run(tmp_path, "middle"), new_run(tmp_path, "new")
    search(plan_of(WIDE, 2, learn_from=(old.path,)), middle)
    begin(plan_of(WIDE, 2, learn_from=(middle.path,)), new)
    assert [copy.user_attrs[IMPORTED] for copy in learnt_of(new)] == [
        f"{middle.path}/0000",
        f"{middle.path}/{records(middle)[1].trial_id}",
    ]


def test_what_another_run_tried_may_be_tried_here(tmp_path: Path) -> None:
    """Its photos, its people or its epochs may be others."""
    old, new = ended_every_way(tmp_path), new_run(tmp_path, "new")
    search(plan_of(NARROW, 3, learn_from=(old.path,)), new)
    assert records(new)[0].recipe == records(old)[0].recipe


def test_a_search_killed_before_or_amid_learning_learns_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = ended_every_way(tmp_path)
    unbroken, before, amid = (new_run(tmp_path, name) for name in ("unbroken", "before", "amid"))
    plan = plan_of(WIDE, 14, learn_from=(old.path,))
    search(plan, unbroken)
    enqueue_initial_trials(open_study(before), plan)
    add, added = optuna.Study.add_trial, list[FrozenTrial]()

    def killed(self: optuna.Study, trial: FrozenTrial) -> None:
        if len(added) == 7:
            raise KeyboardInterrupt
        added.extend([trial] if IMPORTED in trial.user_attrs else [])
        add(self, trial)

    with monkeypatch.context() as patch:
        patch.setattr(optuna.Study, "add_trial", killed)
        with pytest.raises(KeyboardInterrupt):
            begin(plan, amid)
    assert len(learnt_of(amid)) == 7
    for run in (before, amid):
        search(plan, run)
        assert records(run) == records(unbroken)
        assert [copy.user_attrs for copy in learnt_of(run)] == [copy.user_attrs for copy in learnt_of(unbroken)]


def test_learning_leaves_the_other_run_as_it_is(tmp_path: Path) -> None:
    old, bare, new = ended_every_way(tmp_path), new_run(tmp_path, "bare"), new_run(tmp_path, "new")
    with old.journal.open("a") as journal:
        journal.write('{"op_code": 8, "worker_id": "torn in the mid')  # its driver was killed, or is writing just now
    before = old.journal.read_bytes()
    of_old, of_bare = import_trials(open_study(new), plan_of(WIDE, 2), [old.path, bare.path], new)
    assert (of_old.trials, of_bare.trials) == (KnownTrials(15, 15), KnownTrials(0, 0))
    assert old.journal.read_bytes() == before
    assert not bare.journal.exists(), "a run that was not begun is not begun by who learns from it"


def test_what_was_learnt_is_kept_where_the_other_run_is_gone(tmp_path: Path) -> None:
    old, new = ended_every_way(tmp_path), new_run(tmp_path, "new")
    plan = plan_of(WIDE, 2, learn_from=(old.path,))
    search(plan, new)
    before = learnt_of(new)
    shutil.rmtree(old.path)
    search(plan_of(WIDE, 3, learn_from=(old.path,)), new)
    assert learnt_of(new) == before
    assert len(records(new)) == 3


@pytest.mark.parametrize("key", ["epochs", "image_size"])
def test_scores_of_more_epochs_or_larger_photos_are_of_another_recipe(tmp_path: Path, key: str) -> None:
    old, new, plan = ended_every_way(tmp_path), new_run(tmp_path, "new"), plan_of(WIDE, 2)
    plan = replace(plan, base=plan.base.override({key: 2 * getattr(plan.base, key)}))
    (imported,) = import_trials(open_study(new), plan, [old.path], new)
    assert imported.trials == KnownTrials(0, 15, {key: 15})


def test_what_is_different_of_the_people_is_said(tmp_path: Path) -> None:
    old, new, plan = ended_every_way(tmp_path), new_run(tmp_path, "new"), plan_of(WIDE, 2)
    known = "Learnt from old: 15 of 15 trials with a score are known to this space."

    def said(theirs: Split, ours: Split, digests: str = "aa") -> str:
        for run, split, digest in zip((old, new), (theirs, ours), digests, strict=True):
            run.data.mkdir(exist_ok=True)
            (run.data / SPLIT).write_text(split.to_json())
            run.write_record(SearchRecord(data=DataRecord(digest=digest), split_digest=split.digest))
        (imported,) = import_trials(open_study(new), plan, [old.path], new)
        return str(imported)

    ours = Split(("a", "b"), ("c", "d"), ("e", "f"))
    assert said(ours, ours) == known
    assert said(ours, ours, "ab") == f"{known} It has other photos."
    people = f"{known} Its scores are of other validation people: of"
    assert said(Split(("c", "e"), ("d", "a", "b"), ("f",)), ours) == (
        f"{people} 3 people, 1 are validation people here too, and 2 are trained on."
    )
    assert said(Split(("c", "d", "f"), ("a", "e"), ("b",)), ours) == (
        f"{people} 2 people, 0 are validation people here too, and 1 are trained on. 1 of them is in this run's "
        "holdout, which is therefore not unseen: its score will be too good. A new run with --split "
        f"{old.data / SPLIT} avoids that."
    )
    (old.data / SPLIT).unlink()
    (imported,) = import_trials(open_study(new), plan, [old.path], new)
    assert str(imported) == f"{known} Its scores are of other validation people."


def test_the_sampler_starts_from_what_was_learnt(tmp_path: Path) -> None:
    """Its first suggestions are what Optuna's own TPE makes of those trials: near their optimum, where a search that
    knows nothing draws at random."""
    old = new_run(tmp_path, "old")
    search(plan_of(NARROW, 60, sampler=RANDOM), old, peak)
    away: dict[str, list[float]] = {"imported": [], "fresh": []}
    for seed in range(8):
        runs = [new_run(tmp_path / f"{seed}", name) for name in ("imported", "fresh", "by-chance")]
        ways: list[dict[str, Any]] = [{"learn_from": (old.path,)}, {}, {"sampler": RANDOM}]
        for run, values in zip(runs, ways, strict=True):
            search(plan_of(NARROW, 2, seed=seed, **values), run)
        imported, fresh, by_chance = (records(run)[1] for run in runs)
        assert imported.params == optunas_own(
            [open_study(runs[0]).get_trials()[0], *open_study(old).get_trials()], seed
        )
        assert fresh.params == by_chance.params != imported.params
        away["imported"].append(decades_off(imported))
        away["fresh"].append(decades_off(fresh))
    assert mean(away["imported"]) < mean(away["fresh"]) / 2


def peak(recipe: Mapping[str, Any], epoch: int) -> float:
    """High near lr_head = 1e-3 alone."""
    return math.exp(-abs(math.log10(recipe["lr_head"]) + 3)) * (1 - 0.5**epoch)


def optunas_own(trials: list[FrozenTrial], seed: int) -> dict[str, Any]:
    """What Optuna suggests after these trials."""
    study = optuna.create_study(direction="maximize", sampler=samplers.create(TPE, seed, len(trials)))
    study.add_trials(trials)
    trial = study.ask()
    NARROW.suggest(trial, SETTING)
    return trial.params


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_search_learns_says_so_and_shows_its_own_trials_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = ended_every_way(tmp_path), new_run(tmp_path, "new")
    plan = plan_of(WIDE, 3, learn_from=(old.path,))
    assert run_search(plan, new, Synthetic()) == Outcome(Reason.FINISHED, 0)
    err = capsys.readouterr().err
    assert "Learnt from old: 15 of 15 trials with a score are known to this space." in err
    assert "3 of 3 trials" in err
    names = [record.trial_id for record in records(new)]
    assert len(names) == 3
    assert sorted(row["trial"] for row in table(new)) == names == sorted(folder.name for folder in new.trials.iterdir())
    assert run_search(plan, new, Synthetic()) == Outcome(Reason.FINISHED, 0)
    assert len(learnt_of(new)) == 15
