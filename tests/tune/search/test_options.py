"""How a call becomes a plan: scale, shares of the machine, precedence, durations."""

from __future__ import annotations

import inspect
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from maskcls import machine
from maskcls.data import dataset
from maskcls.data.demo.folder import SHOTS
from maskcls.data.faces import model_file
from maskcls.errors import CallError
from maskcls.stores.photo_limits import MAX_ASPECT, MAX_MEGAPIXELS, Limits, StatedLimits, limits
from search_spaces import Space
from tune.compare.__main__ import main as compare_main
from tune.compare.options import CompareOptions
from tune.durations import budget_s
from tune.runs import estimates
from tune.runs.cluster import Cluster, Node
from tune.runs.folder import SearchRun
from tune.runs.options import SharedOptions
from tune.runs.record import MANY, SearchRecord
from tune.search.__main__ import main as search_main
from tune.search.first_trials import initial_trials
from tune.search.options import Resolved, SearchOptions, resolve
from tune.search.plan import SearchPlan
from tune.search.warm_start import preset_params


def options(**stated: Any) -> SearchOptions:
    """As if these were typed, of a search over freezing."""
    return SearchOptions(**{"space": "freezing", **stated})


def resolved(cpus: int, gpus: float, **stated: Any) -> Resolved:
    return resolve(options(**stated), Cluster((Node(cpus, gpus),)))


def test_without_a_gpu_the_scale_is_cpu_and_says_so(tmp_path: Path) -> None:
    found = resolved(2, 0, data=tmp_path)
    assert found.plan.setting.scale == "cpu"
    assert found.plan.base.backbone == "resnet10t"
    assert found.notes[0].startswith("No GPU was found: CPU scale")
    assert resolved(2, 1).plan.base.backbone == "tf_efficientnet_b4.ns_jft_in1k"
    assert resolved(2, 0, scale="gpu").plan.setting.scale == "gpu"


def test_drawn_faces_at_cpu_scale_have_a_small_network_and_the_plan_counts_their_photos() -> None:
    plan = resolved(2, 0, space="backbones").plan
    assert plan.base.backbone in plan.space.backbones(plan.setting)
    assert plan.base.weights == "none"
    assert estimates.count_photos(SearchOptions()) == dataset.DEMO_PERSONS * len(SHOTS)


@pytest.mark.parametrize(
    ("cpus", "gpus", "stated", "share"),
    [
        (2, 0, {}, (2, 1, 0)),
        (2, 0, {"trials": 3}, (1, 2, 0)),
        (64, 0, {"trials": 12}, (4, 16, 0)),
        (64, 0, {"cpus_per_trial": 32}, (2, 32, 0)),
        (64, 0, {"parallel": 8}, (8, 8, 0)),
        (16, 4, {}, (4, 4, 1)),
        (16, 1, {"gpus_per_trial": 0.25}, (4, 4, 0.25)),
        (16, 1, {"scale": "cpu"}, (4, 4, 0)),
    ],
)
def test_trials_share_the_machine(
    cpus: int, gpus: float, stated: dict[str, Any], share: tuple[int, int, float]
) -> None:
    plan = resolved(cpus, gpus, **stated).plan
    assert (plan.parallel, plan.cpus, plan.gpus) == share


def test_more_than_there_is_would_never_start() -> None:
    with pytest.raises(
        CallError, match=r"--gpus-per-trial 2 is more than there is on one machine \(1\): no trial would ever start"
    ):
        resolved(2, 1, gpus_per_trial=2.0)


CLUSTER = Cluster((Node(8, 0), Node(4, 1), Node(4, 1)))


@pytest.mark.parametrize(
    ("stated", "share"),
    [
        ({"parallel": 1, "scale": "cpu"}, (1, 8, 0)),
        ({"parallel": 3, "scale": "cpu"}, (3, 4, 0)),
        ({"trials": 30, "scale": "cpu"}, (10, 1, 0)),
        ({}, (2, 4, 1)),
        ({"parallel": 1}, (1, 4, 1)),
        ({"gpus_per_trial": 0.5}, (4, 2, 0.5)),
    ],
)
def test_a_trial_fits_on_one_node_of_a_cluster(stated: dict[str, Any], share: tuple[int, int, float]) -> None:
    plan = resolve(options(**stated), CLUSTER).plan
    assert (plan.parallel, plan.cpus, plan.gpus) == share


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"cpus_per_trial": 9}, r"--cpus-per-trial 9 is more than there is on one machine \(8\)"),
        ({"gpus_per_trial": 2.0}, r"--gpus-per-trial 2 is more than there is on one machine \(1\)"),
        ({"cpus_per_trial": 8, "gpus_per_trial": 1.0}, "No machine has both 8 cores and 1 GPUs"),
    ],
)
def test_a_trial_that_fits_on_no_node_is_refused(stated: dict[str, Any], message: str) -> None:
    with pytest.raises(CallError, match=message):
        resolve(options(**stated), CLUSTER)


def test_a_quota_of_time_bounds_the_cores(tmp_path: Path) -> None:
    limits = tmp_path / "cpu.max"
    for text, cores in (("150000 100000\n", 2), ("50000 100000\n", 1), ("max 100000\n", None)):
        limits.write_text(text)
        assert machine.quota(limits) == cores
    assert machine.quota(tmp_path / "nowhere") is None


def test_the_folder_of_runs_may_be_in_the_home() -> None:
    assert SearchOptions(runs="~/runs").runs == Path.home() / "runs"


@pytest.mark.parametrize(
    "stated",
    [
        *({name: "~nosuchuser/x"} for name in ("data", "extra", "split", "corrections", "weights", "cache", "runs")),
        {"storage": "~nosuchuser/x"},
        {"space": "~nosuchuser/x.py"},
    ],
    ids=str,
)
def test_a_home_that_is_not_known_is_a_wrong_call(stated: dict[str, Any]) -> None:
    with pytest.raises(CallError, match="~nosuchuser/x.*: no home of ~nosuchuser is known. Give the whole path."):
        SearchOptions(**stated)


@pytest.mark.parametrize("name", ["seed", "split_seed", "pixel_store_gb", "feature_store_gb"])
def test_a_number_below_zero_is_refused_by_its_options_name(name: str) -> None:
    with pytest.raises(CallError, match=f"^--{name.replace('_', '-')} must be at least 0, but got -1.$"):
        SearchOptions(**{name: -1})


def test_a_path_is_the_same_however_it_is_written(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    crooked = tmp_path / "sub" / ".." / "sub"
    assert options(data=crooked, weights="none").data == (tmp_path / "sub").resolve()


def test_backbones_that_had_weights_when_the_run_began_stay_its_choices(tmp_path: Path) -> None:
    file = tmp_path / "resnet10t.safetensors"
    file.touch()
    asked = options(space="backbones", weights=str(tmp_path))
    machine = Cluster((Node(2, 0),))
    begun = resolve(asked, machine)
    (tmp_path / "lcnet_100.safetensors").touch()
    file.unlink()
    resumed = resolve(asked, machine, has_weights=begun.has_weights).plan
    assert resumed.space.left_out(resumed.setting) == begun.plan.space.left_out(begun.plan.setting)
    assert "lcnet_100" in resumed.space.left_out(resumed.setting)
    assert "resnet10t" not in resumed.space.left_out(resumed.setting)


def test_a_resumed_run_keeps_its_base_recipe_whatever_the_preset_has_become() -> None:
    begun = resolved(2, 0, epochs=9)
    kept = {**begun.plan.base.model_dump(), "image_size": 96, "batch_size": 24}
    resumed = resolve(options(epochs=9), Cluster((Node(2, 0),)), base_recipe=kept)
    assert (resumed.plan.base.image_size, resumed.plan.base.batch_size) == (96, 24)
    assert resolve(options(epochs=9), Cluster((Node(2, 0),)), base_recipe={}).plan.base == begun.plan.base


def test_preset_scale_space_explicit_in_that_order() -> None:
    plan = resolved(2, 0, set=("lr_head=0.5", "head=mlp"), epochs=9, seed=4).plan
    assert plan.base.head_width == 512, "the scale over the preset"
    assert plan.base.lr_head == 0.5
    assert plan.base.epochs == 9
    assert plan.base.seed == plan.seed == 4
    assert plan.base.weights == "none", "of demo faces"
    recipe = plan.recipe({"lr_head": 1e-3, "head_width": 99, "epochs": 1})
    assert (recipe["lr_head"], recipe["head_width"], recipe["epochs"]) == (0.5, 99, 9), (
        "the space over the scale, explicit over all"
    )


def test_a_pin_is_reported() -> None:
    notes = resolved(2, 0, set=("frozen_stages=3",), image_size=64, weights="hub").notes
    assert [note for note in notes if "fixed" in note] == ["frozen_stages is fixed at 3: the space would vary it."]


def test_a_face_crop_that_cannot_be_made_here_is_left_out_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {"space": "everything", "weights": "hub"}
    for missing, said in (("", []), ("It is not installed.", ["Left out: face_crop. It is not installed."])):
        monkeypatch.setattr(model_file, "why_not", lambda missing=missing: missing)
        found = resolved(2, 0, **asked)
        assert [note for note in found.notes if "face_crop" in note] == said
        assert ("face_crop" in found.plan.space.parameters(found.plan.setting)) == (missing == "")
    pinned = resolved(2, 0, **asked, set=("face_crop=haar",))
    assert [note for note in pinned.notes if "Left out" in note] == []
    assert pinned.plan.base.face_crop == "haar", "a resumed run of an earlier version"


def test_limits_of_photos_are_a_runs_own_and_reach_its_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MAX_ASPECT, "3")
    monkeypatch.delenv(MAX_MEGAPIXELS, raising=False)
    asked = options(max_megapixels=0.5)
    assert asked.cache_options.limits == StatedLimits(megapixels=0.5)
    assert {"max_megapixels", "max_aspect"} <= set(asked.IDENTITY) & set(asked.CALL)
    with asked.limits.within():
        assert limits() == Limits(0.5, 3)
    assert limits() == Limits(Limits.megapixels, 3)


def test_the_preset_is_a_point_of_the_space_where_all_its_values_lie_in_it(tmp_path: Path) -> None:
    plan = resolved(2, 0, data=tmp_path, preset="contest-2021").plan
    assert preset_params(plan) == {
        "frozen_stages": 5,
        "head": "mlp",
        "lr_head": 1e-3,
        "head_width": 512,
        "head_dropout": 0.5,
    }
    assert preset_params(replace(plan, base=plan.base.override({"lr_head": 0.9}))) == {}


def test_a_preset_that_the_space_cannot_make_is_none_of_its_points() -> None:
    """Random weights are trained with a warm-up and clipping by the space, and without by the preset."""
    plan = resolved(2, 0, preset="contest-2021").plan
    assert (plan.base.frozen_stages, plan.base.warmup_epochs) == (0, 0.0)
    assert preset_params(plan) == {}


def test_a_point_that_is_the_preset_again_is_not_tried_twice(tmp_path: Path) -> None:
    plan = resolved(2, 0, data=tmp_path).plan
    preset = preset_params(plan)
    again = Space("mine", "?", plan.space.suggest, lambda setting: [preset, {**preset, "lr_head": 5e-3}])
    assert initial_trials(SearchPlan(again, plan.setting, plan.base)) == {
        "preset": preset,
        "point 2": {**preset, "lr_head": 5e-3},
    }


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1800), ("2h", 7200), ("1h30m", 5400), ("0.5h", 1800), (None, None)]
)
def test_durations(text: str | None, seconds: float | None) -> None:
    assert budget_s(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "m", "30 m", "-5m", "0s", "5d", "1h30"])
def test_durations_that_are_none(text: str) -> None:
    with pytest.raises(CallError, match="--time-budget expects a duration"):
        budget_s(text)


def test_what_follows_the_search_and_how_it_goes_has_defaults() -> None:
    plan = resolved(2, 0).plan
    assert (plan.sampler, plan.scheduler, plan.learn_from) == ("tpe", "asha", ())
    assert plan.trials == 12
    assert resolved(2, 0, time_budget="1h").plan.trials >= 10_000, "only the time bounds them"
    assert resolved(2, 0, time_budget="1h", trials=5).plan.trials == 5


def test_fits_after_a_search_are_counted() -> None:
    def fits(**stated: Any) -> int:
        return resolved(2, 0, **stated).plan.fits_after

    assert fits(scheduler="none") == 12, "three finalists and the preset, three repeats each"
    assert fits(scheduler="asha") == 15, "each finalist may have been stopped early"
    assert fits(scheduler="median", finalists=2, repeats=1) == 5
    assert fits(scheduler="none", finalists=0) == 0
    assert fits(scheduler="none", retrain_on_all=True) == 13


def recorded(folder: Path, name: str, **stated: Any) -> SearchRun:
    """A run that was asked for with these options."""
    return SearchRun.create(folder, name, SearchRecord(call=options(**stated).to_record()))


def test_a_resume_keeps_the_runs_own_search_unless_it_says_another(tmp_path: Path) -> None:
    run, other = (
        recorded(tmp_path, name, sampler="random", finalists=2, retrain_on_all=True) for name in ("one", "other")
    )
    again = SearchOptions(runs=tmp_path, repeats=5, learn_from=["other"]).resumed(run)
    assert (again.sampler, again.finalists, again.repeats, again.retrain_on_all) == ("random", 2, 5, True)
    assert again.learn_from == (other.path,)
    assert (again.space, again.runs, again.trials) == ("freezing", tmp_path, 12)
    timed = recorded(tmp_path, "timed", time_budget="1h")
    assert SearchOptions(runs=tmp_path).resumed(timed).time_budget == "1h", (
        "as much again: the printed command says none"
    )
    assert SearchOptions(runs=tmp_path, time_budget="5m").resumed(timed).time_budget == "5m"
    bounded = SearchOptions(runs=tmp_path, trials=20).resumed(timed)
    assert (bounded.trials, bounded.time_budget) == (20, None)


def test_a_resume_keeps_as_many_weights_and_those_of_a_run_that_kept_all_stay(tmp_path: Path) -> None:
    run = recorded(tmp_path, "one", keep=2)
    assert SearchOptions(runs=tmp_path).resumed(run).keep == 2
    assert SearchOptions(runs=tmp_path, keep=7).resumed(run).keep == 7
    earlier = {name: value for name, value in run.record().call.items() if name != "keep"}
    run.write_record(run.record().changed(call=earlier))
    assert SearchOptions(runs=tmp_path).resumed(run).keep == MANY
    assert SearchOptions(runs=tmp_path, keep=7).resumed(run).keep == 7


def test_a_resume_shares_gpus_again_and_keeps_to_measuring_where_the_run_did(tmp_path: Path) -> None:
    measured = recorded(tmp_path, "measured", gpus_per_trial="auto")
    by_number = recorded(tmp_path, "by-number", gpus_per_trial="0.5")
    assert SearchOptions(runs=tmp_path).resumed(measured).gpus_per_trial == "auto"
    assert SearchOptions(runs=tmp_path, gpus_per_trial="0").resumed(measured).gpus_per_trial == 0.0
    assert SearchOptions(runs=tmp_path).resumed(by_number).gpus_per_trial is None, "this machine may be another"


def test_options_survive_a_record_whose_files_are_gone(tmp_path: Path) -> None:
    for name in ("data", "weights"):
        (tmp_path / name).mkdir()
    (tmp_path / "split.json").touch()
    asked = options(
        data=tmp_path / "data",
        weights=str(tmp_path / "weights"),
        split=tmp_path / "split.json",
        set=["head=mlp"],
        gpus_per_trial="0.25",
        time_budget="90s",
    )
    record = json.loads(json.dumps(SearchRecord(call=asked.to_record()).to_dict()))
    for name in ("data", "weights"):
        (tmp_path / name).rmdir()
    assert SearchOptions.recorded(SearchRecord.model_validate(record)).to_record() == asked.to_record()
    assert list(asked.to_record()) == list(SearchOptions.CALL)
    assert asked.model_copy(update={"cache": tmp_path, "name": "x"}).to_record() == asked.to_record()
    with pytest.raises(
        CallError, match=f"--data {tmp_path / 'data'}: there is no such file or folder. Expected a table of"
    ):
        options(data=tmp_path / "data")


def test_a_record_of_another_version_keeps_what_it_says(tmp_path: Path) -> None:
    run = recorded(tmp_path, "newer")
    known = json.loads(run.record_file.read_text())
    known |= {"parts": [{"why": "finished", "mood": "fine"}], "later": None, "call": {**known["call"], "colour": "red"}}
    run.record_file.write_text(json.dumps(known))
    assert SearchOptions(runs=tmp_path).resumed(run).space == "freezing"
    run.write_record(run.record().changed(split_digest="s"))
    assert json.loads(run.record_file.read_text()) == {**known, "split_digest": "s"}


@pytest.mark.parametrize(("main", "kind"), [(search_main, SearchOptions), (compare_main, CompareOptions)])
def test_a_command_and_its_options_agree(main: Any, kind: type[SharedOptions]) -> None:
    typed = {name.rstrip("_"): one.default for name, one in inspect.signature(main).parameters.items()}
    others = {"context", "list_spaces"}
    assert typed.keys() - others == kind.model_fields.keys()
    reported = kind()
    assert {
        name: value
        for name, value in typed.items()
        if name not in others and value not in (None, getattr(reported, name))
    } == {}
    assert set(kind.CALL) | {"name", *kind.COMMAND} | set(kind.IDENTITY) == kind.model_fields.keys()


@pytest.mark.parametrize(
    ("kind", "kept", "merged", "derived"),
    [
        (SearchOptions, SearchOptions.KEPT, {"learn_from", "retrain_on_all", "single"}, set()),
        (CompareOptions, (), {"vary", "seeds", "equal_time", "storage"}, {"one_at_a_time"}),
    ],
)
def test_no_option_is_lost_on_a_resume(
    kind: type[SharedOptions], kept: tuple[str, ...], merged: set[str], derived: set[str]
) -> None:
    """`resumed` merges some options itself; `derived` follow from others. All others must stand in a tuple."""
    fields = kind.model_fields.keys()
    recorded_or_not = {*kind.CALL, *kind.COMMAND, "name"}
    assert fields - recorded_or_not == derived, "in CALL the run's record keeps it; in COMMAND no record does"
    assert recorded_or_not <= fields
    resumed = {*kind.IDENTITY, *kept, *kind.MACHINE, *kind.COMMAND, "name"}
    assert fields - resumed == merged, "in none of them, what a resume states would be neither refused nor used"


def test_extra_photos_must_be_there_and_people_come_from_folders_or_none(tmp_path: Path) -> None:
    with pytest.raises(
        CallError, match=r"--extra .*no\.csv: there is no such file or folder\. Expected a table of photos"
    ):
        options(extra=tmp_path / "no.csv")
    with pytest.raises(CallError, match=r"--people-from must be one of folder, none, but got 'each'\."):
        options(people_from="each")
    (tmp_path / "photos.csv").touch()
    stated = options(extra=tmp_path / "photos.csv", people_from="folder")
    kept = stated.to_record()
    assert (kept["extra"], kept["people_from"]) == (str(tmp_path / "photos.csv"), "folder")
    assert {"extra", "people_from"} <= {*SearchOptions.IDENTITY} & {*CompareOptions.IDENTITY} & {*CompareOptions.CALL}
