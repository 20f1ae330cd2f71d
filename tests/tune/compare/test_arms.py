"""What is compared: values of --vary, comparisons and studies; and the splits that all variants of a repeat share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from maskcls.data.dataset import FaceDataset
from maskcls.data.faces.detectors import DETECTORS
from maskcls.data.splits import Split, split_people
from maskcls.errors import CallError, DataError
from maskcls.labels import encode
from maskcls.recipe import Recipe
from maskcls.stores.cache_options import CacheOptions
from maskcls.training.fit_data import FitData
from tune.compare import studies
from tune.compare.arms import (
    Arm,
    comparison_of_values,
    default_folds,
    draw_split,
    find_inapplicable,
    find_untrainable,
    leave_out,
    merge_vary,
    parse_vary,
    plan_comparison,
    repeat_splits,
)
from tune.compare.fits import is_evaluated, requests
from tune.compare.studies import Comparison, Study, Variant
from tune.compare.treatments import Treatment, find
from tune.fitting.pool import to_do
from tune.fitting.result import FitResult
from tune.runs.folder import ComparisonRun
from tune.states import TrialState

HERE = __name__


class ReadsOtherwise(Treatment):
    """Says the same of everybody."""


class TrainsOtherwise(Treatment):
    """Trains on other photos."""

    def data(self, faces: FaceDataset, data: FitData, generator: np.random.Generator) -> FitData:
        return data


class Nowhere(Treatment):
    """Applies to no data."""

    def applies(self, faces: FaceDataset, recipe: Recipe) -> str:
        return "these photos have no names"


def make_faces(n: int = 60, photos: int = 2, **sides: int) -> FaceDataset:
    """People of every gender and age group, their holdout drawn."""
    rows = [
        {
            "key": f"{number:03d}/{photo}.jpg",
            "file": f"/nowhere/{number}-{photo}.jpg",
            "size_bytes": 1000 + photos * number + photo,
            "person": f"person-{number:03d}",
            "mask": photo % 3,
            "gender": number % 2,
            "age": (20, 40, 60)[number // 2 % 3],
            "age_group": number // 2 % 3,
            "label": encode(photo % 3, number % 2, number // 2 % 3),
        }
        for number in range(n)
        for photo in range(photos)
    ]
    table = pd.DataFrame(rows)
    return FaceDataset(table, split_people(table, 0), CacheOptions(Path("/nowhere")))


@pytest.mark.parametrize(
    ("texts", "values"),
    [
        (["loss=focal,cross_entropy"], {"loss": ["focal", "cross_entropy"]}),
        (["frozen_stages=0, 3,5"], {"frozen_stages": [0, 3, 5]}),
        (["lr_head=1e-3"], {"lr_head": [0.001]}),
        (['ages_left_out=["57-59", "27-29,57-59"]'], {"ages_left_out": ["57-59", "27-29,57-59"]}),
        (["ages_left_out=,57-59"], {"ages_left_out": ["", "57-59"]}),
        (
            ["members.age3.lr_head=1e-3,2e-3", "loss=focal,focal"],
            {"members.age3.lr_head": [0.001, 0.002], "loss": ["focal"]},
        ),
    ],
)
def test_values_to_vary(texts: list[str], values: dict[str, list[Any]]) -> None:
    assert parse_vary(texts) == values


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["loss"], "--vary expects key=value,value, as in --vary loss=focal,cross_entropy, but got 'loss'"),
        (["=3"], "--vary expects key=value"),
        (["loss=focal", "loss=cross_entropy"], "--vary loss is given twice. Put all its values into one"),
        (
            ["seed=1,2"],
            "--vary seed is no comparison: the repeats differ in their seeds. Set their number with --seeds",
        ),
    ],
)
def test_values_that_cannot_be_meant(texts: list[str], message: str) -> None:
    with pytest.raises(CallError, match=message):
        parse_vary(texts)


def test_a_resume_adds_values() -> None:
    assert merge_vary({"loss": ["focal"]}, {"loss": ["focal", "soft_f1"], "views": [4]}) == {
        "loss": ["focal", "soft_f1"],
        "views": [4],
    }


def test_one_at_a_time_or_all_combinations() -> None:
    base = Recipe()
    vary: dict[str, list[Any]] = {"loss": ["focal", "cross_entropy"], "frozen_stages": [0, 5]}
    assert [variant.name for variant in comparison_of_values(base, vary, grid=False).variants] == [
        "loss=focal",
        "frozen_stages=0",
    ]
    grid = comparison_of_values(base, vary, grid=True).variants
    assert [variant.name for variant in grid] == [
        "loss=focal, frozen_stages=0",
        "loss=focal, frozen_stages=5",
        "loss=cross_entropy, frozen_stages=0",
    ]
    with pytest.raises(CallError, match="Nothing is left to vary: the base has frozen_stages=5 itself"):
        comparison_of_values(base, {"frozen_stages": [5]}, grid=False)
    with pytest.raises(CallError, match="A recipe has no key 'frozen_stage'. Did you mean frozen_stages"):
        comparison_of_values(base, {"frozen_stage": [5]}, grid=False)
    with pytest.raises(CallError, match="frozen_stages: .* less than or equal to 5, but got 6"):
        comparison_of_values(base, {"frozen_stages": [6]}, grid=False)


def test_base_then_the_comparison_then_the_call_then_the_variant() -> None:
    base = Recipe(lr_head=0.1, lr_body=0.1, epochs=1, batch_size=1)
    comparison = Comparison(
        "one",
        base={"lr_body": 0.2, "epochs": 2, "batch_size": 2},
        variants=(
            Variant("epochs", {"epochs": 4}),
            Variant("members", {"task_split": "three", "members.age3.lr_head": 0.5}),
        ),
    )
    made, same = plan_comparison(comparison, base, {"epochs": 3, "batch_size": 3})
    assert same == []
    actual = [(arm.recipe.lr_head, arm.recipe.lr_body, arm.recipe.epochs, arm.recipe.batch_size) for arm in made.arms]
    assert actual == [(0.1, 0.2, 3, 3), (0.1, 0.2, 4, 3), (0.1, 0.2, 3, 3)]
    assert made.variants[1].recipe.of_member("age3").lr_head == 0.5


def test_a_variant_that_is_the_base_is_left_out() -> None:
    comparison = Comparison("one", variants=(Variant("a", {"epochs": 3}), Variant("b", {"epochs": 4})))
    made, same = plan_comparison(comparison, Recipe(), {"epochs": 3})
    assert same == ["a"]
    assert [arm.name for arm in made.variants] == ["b"]


def test_an_error_in_a_variant_names_it() -> None:
    wrong = Comparison("one", variants=(Variant("odd", {"epoch": 3}),))
    with pytest.raises(
        CallError, match="Comparison one, variant odd: A recipe has no key 'epoch'. Did you mean epochs"
    ):
        plan_comparison(wrong, Recipe(), {})
    unknown = Comparison("one", variants=(Variant("odd", treatment="magic"),))
    with pytest.raises(CallError, match="Comparison one, variant odd: There is no treatment 'magic'. Treatments: "):
        plan_comparison(unknown, Recipe(), {})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no.such.module:X", "cannot be loaded: No module named 'no'. Expected module:Class"),
        ("tune.compare.treatments:Nothing", "cannot be loaded: .*no attribute 'Nothing'"),
        ("tune.compare.arms:Arm", "must be a subclass of tune.compare.treatments.Treatment"),
    ],
)
def test_treatments_that_are_none(name: str, message: str) -> None:
    with pytest.raises(CallError, match=message):
        find(name)
    assert type(find("")) is Treatment


def test_nobody_stands_on_two_sides_and_the_holdout_on_none() -> None:
    faces = make_faces()
    used = {*faces.split.train, *faces.split.validation}
    splits = [draw_split(faces, number, 4, 0) for number in range(8)]
    for split in splits:
        sides = [set(split.train), set(split.validation), set(split.holdout)]
        assert set.union(*sides) == used
        assert sum(map(len, sides)) == len(used)
        assert len(split.validation) == pytest.approx(0.15 * len({*split.train, *split.validation}), abs=1)
    for part in (splits[:4], splits[4:]):
        tested = [person for split in part for person in split.holdout]
        assert sorted(tested) == sorted(used), "each is tested once before the people are divided again"
    assert {split.holdout for split in splits[:4]}.isdisjoint({split.holdout for split in splits[4:]})
    assert draw_split(faces, 3, 4, 0) == splits[3]
    assert draw_split(faces, 3, 4, 1) != splits[3]


def test_folds_are_by_gender_and_age_group() -> None:
    faces = make_faces(120)
    strata = faces.photos.drop_duplicates("person").set_index("person")
    for number in range(5):
        tested = strata.loc[list(draw_split(faces, number, 5, 0).holdout)]
        assert tested.groupby(["gender", "age"]).size().between(2, 5).all()


def test_a_repeats_split_is_drawn_once_and_kept(tmp_path: Path) -> None:
    run, faces = ComparisonRun.create(tmp_path, "one"), make_faces()
    first = repeat_splits(run, faces, 2, 3, 0)
    kept = Split(first[0].validation, first[0].train, first[0].holdout)
    run.repeat(3, 0).write_text(kept.to_json())
    again = repeat_splits(run, faces, 3, 3, 0)
    assert again[:2] == [kept, first[1]]
    assert len(again) == 3


def test_too_few_people(tmp_path: Path) -> None:
    run, faces = ComparisonRun.create(tmp_path, "one"), make_faces(4)
    with pytest.raises(CallError, match="`2 <= folds <= people` must hold, but got 5 folds of"):
        repeat_splits(run, faces, 5, 5, 0)
    with pytest.raises(DataError, match="people are too few for 2 folds: .* nobody is left to pick the epoch"):
        repeat_splits(
            run,
            FaceDataset(faces.photos, Split(*(faces.split.train[:1], faces.split.train[1:2])), faces.cache),
            2,
            2,
            0,
        )


@pytest.mark.parametrize(("repeats", "folds"), [(1, 2), (2, 2), (3, 3), (5, 5), (12, 5)])
def test_folds_by_default(repeats: int, folds: int) -> None:
    assert default_folds(repeats) == folds


def test_equal_fits_are_one(tmp_path: Path) -> None:
    """Comparisons share their base, variants that only evaluate share the plain fit; each repeat has its own fits."""
    run, base = ComparisonRun.create(tmp_path, "one"), Recipe(epochs=2)
    one = Comparison(
        "one", variants=(Variant("lr", {"lr_head": 0.5}), Variant("read", treatment=f"{HERE}:ReadsOtherwise"))
    )
    two = Comparison(
        "two", variants=(Variant("same lr", {"lr_head": 0.5}), Variant("trained", treatment=f"{HERE}:TrainsOtherwise"))
    )
    made = [plan_comparison(comparison, base, {})[0] for comparison in (one, two)]
    splits = [Split(("a",), ("b",), (name,)) for name in "cd"]
    asked = requests(run, made, splits, "data", folds=2, cpus=1, gpus=0.0)
    actual = [
        (request.settings["repeat"], request.recipe["lr_head"], request.settings["treatment"]) for request in asked
    ]
    other = f"{HERE}:TrainsOtherwise"
    assert actual == [(n, lr, treatment) for n in range(2) for lr, treatment in ((1e-3, ""), (0.5, ""), (1e-3, other))]
    assert [request.recipe["seed"] for request in asked] == [0, 0, 0, 1, 1, 1]
    assert asked[0].settings["readings"] == [f"{HERE}:ReadsOtherwise"]
    assert asked[1].settings["readings"] == asked[2].settings["readings"] == []
    assert asked[0].settings["split"] == "data/repeats/2-000.json"
    assert len({request.trial_id for request in asked}) == 6
    assert {
        request.trial_id for request in requests(run, made, splits, "other data", folds=2, cpus=1, gpus=0.0)
    }.isdisjoint({request.trial_id for request in asked})


def write_result(folder: Path, state: TrialState, readings: list[str]) -> None:
    FitResult(state, "", 2, 1, 0.5, 1.0, 1, 0.0, {"readings": readings}, {}).write(folder)


def test_a_fit_that_was_not_read_as_wanted_is_to_do_again(tmp_path: Path) -> None:
    run, splits = ComparisonRun.create(tmp_path, "one"), [Split(("a",), ("b",), ("c",))]
    reads = f"{HERE}:ReadsOtherwise"
    plain = plan_comparison(Comparison("one", variants=(Variant("lr", {"lr_head": 0.5}),)), Recipe(), {})[0]
    more = plan_comparison(Comparison("one", variants=(Variant("read", treatment=reads),)), Recipe(), {})[0]
    first = requests(run, [plain], splits, "data", folds=2, cpus=1, gpus=0.0)[0]
    first.folder.mkdir()
    write_result(first.folder, TrialState.COMPLETE, ["z"])
    same = requests(run, [plain], splits, "data", folds=2, cpus=1, gpus=0.0)[0]
    assert same.settings["readings"] == ["z"]
    assert to_do([same], is_evaluated) == []
    again = requests(run, [more], splits, "data", folds=2, cpus=1, gpus=0.0)[0]
    assert again.trial_id == first.trial_id
    assert again.settings["readings"] == sorted([reads, "z"]), "what was read before is read again"
    assert to_do([again], is_evaluated) == [again]
    assert (first.folder / "result.json").exists(), "what was found stays until it is replaced"
    write_result(first.folder, TrialState.DIVERGED, [])
    assert to_do([again], is_evaluated) == [], "it would diverge again"
    write_result(first.folder, TrialState.OUT_OF_MEMORY, [])
    assert to_do([again], is_evaluated) == [again]


def test_what_does_not_apply_is_left_out_with_a_note() -> None:
    one = Comparison("one", variants=(Variant("a", treatment=f"{HERE}:Nowhere"), Variant("b", {"epochs": 9})))
    two = Comparison("two", variants=(Variant("c", treatment=f"{HERE}:Nowhere"),))
    three = Comparison("three", treatment=f"{HERE}:Nowhere", variants=(Variant("d", {"epochs": 9}),))
    made = [plan_comparison(comparison, Recipe(), {})[0] for comparison in (one, two, three)]
    left, notes = leave_out(made, find_inapplicable(made, make_faces()))
    assert [(comparison.name, [arm.name for arm in comparison.variants]) for comparison in left] == [("one", ["b"])]
    assert notes == [f"{where} is left out: these photos have no names." for where in ("one, a", "two, c", "three, d")]


def test_what_cannot_be_trained_is_found_in_any_repeat() -> None:
    faces = make_faces()
    one = plan_comparison(
        Comparison("one", variants=(Variant("nobody", {"ages_left_out": "1-120"}), Variant("b", {"epochs": 9}))),
        Recipe(),
        {},
    )[0]
    found = find_untrainable([one], faces, [draw_split(faces, number, 2, 0) for number in range(2)])
    assert list(found) == [("one", "nobody")]
    assert "leave nobody to train" in found["one", "nobody"]
    (left,), (note,) = leave_out([one], found)
    assert [arm.name for arm in left.variants] == ["b"]
    assert note.startswith("one, nobody is left out: age_cut_young=30")


def test_a_face_crop_that_cannot_be_made_here_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = replace(DETECTORS["yunet"], why_not=lambda: "It is not installed.")
    monkeypatch.setitem(DETECTORS, "yunet", missing)
    variants = (Variant("cut", {"face_crop": "yunet"}), Variant("b", {"epochs": 9}))
    one = plan_comparison(Comparison("one", variants=variants), Recipe(), {})[0]
    assert find_untrainable([one], make_faces(), []) == {("one", "cut"): "It is not installed."}


def test_ids_depend_on_the_values_alone() -> None:
    arm = Arm("one", Recipe(epochs=2), "", False)
    assert arm.fit_id(0, "s", "d") == Arm("other name", Recipe(epochs=2, seed=7), "", False).fit_id(0, "s", "d")
    assert (
        len({arm.fit_id(0, "s", "d"), arm.fit_id(1, "s", "d"), arm.fit_id(0, "t", "d"), arm.fit_id(0, "s", "e")}) == 4
    )
    assert np.all([letter in "0123456789abcdef" for letter in arm.fit_id(0, "s", "d")])


STUDY = """
from tune.compare.studies import Comparison, Study, Variant
STUDY = Study("mine", "Does it help?", [Comparison("head", variants=[Variant("mlp", {"head": "mlp"})])])
"""


def test_a_file_is_a_study(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(STUDY)
    assert studies.get(str(file)).comparisons[0].variants[0].overrides == {"head": "mlp"}


def test_a_study_file_that_was_written_before_the_modules_moved_is_read(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        STUDY.replace("tune.compare.studies", "tune.studies")
        + "from tune.treatments import Treatment\n"
        + "class Fours(Treatment):\n    def answers(self, models, fit, faces, rows):\n        return 4\n"
    )
    assert studies.get(str(file)).comparisons[0].variants[0].name == "mlp"


def test_a_treatment_whose_method_has_its_former_name_predicts_by_it() -> None:
    class Fours(Treatment):
        def answers(self, models: Any, fit: Any, faces: Any, rows: Any) -> Any:
            return np.full(len(rows), 4)

    nothing: Any = None
    assert Fours().predict([], nothing, nothing, np.array([1, 2])).tolist() == [4, 4]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("x = 1", r"must define STUDY = Study\(...\) from tune.compare.studies, but it defines none"),
        ("STUDY = 3", "but got int"),
        ("import nowhere", "cannot be loaded: .* line 1: ModuleNotFoundError: No module named 'nowhere'"),
        (STUDY.replace('"mlp", {', '"", {'), "every variant needs its own name"),
        (STUDY.replace('[Variant("mlp", {"head": "mlp"})]', "[]"), "Comparison head of study mine has no variants"),
    ],
)
def test_files_that_are_no_study(code: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(code)
    with pytest.raises(CallError, match=message):
        studies.get(str(file))


def test_studies_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(CallError, match="There is no study 'contests'. .*Studies: "):
        studies.get("contests")
    with pytest.raises(CallError, match="There is no study file .*mine.py. Expected: a Python file"):
        studies.get(str(tmp_path / "mine.py"))
    twice = [Comparison("one", variants=[Variant("a")])] * 2
    with pytest.raises(CallError, match="Study s: every comparison needs its own name, but 'one' is given"):
        studies.checked(Study("s", "?", twice))
    with pytest.raises(CallError, match="Study s has no comparison"):
        studies.checked(Study("s", "?", []))
