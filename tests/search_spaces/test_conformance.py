"""What every space must hold, at both scales, drawn from Optuna's own trials."""

from __future__ import annotations

import subprocess
import sys
import warnings
from typing import Any

import optuna
import pytest

import search_spaces
from maskcls.recipe import MEMBERS, Recipe
from maskcls.training.presets import PRESETS, base_recipe, preset
from search_spaces import Setting, Space, SpaceError

N_SPACES = 6
SCALES = ("cpu", "gpu")
N_TRIALS = 50
ALL = [pytest.param(name, scale, id=f"{name}-{scale}") for name in search_spaces.names() for scale in SCALES]


def new_study(sampler: optuna.samplers.BaseSampler | None = None) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(direction="maximize", sampler=sampler or optuna.samplers.RandomSampler(seed=0))


def ask(study: optuna.Study, space: Space, setting: Setting) -> tuple[optuna.Trial, dict[str, Any]]:
    """A trial drawn with every warning of Optuna's an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trial = study.ask()
        overrides = space.suggest(trial, setting)
    return trial, overrides


def test_every_space_is_covered() -> None:
    assert len(search_spaces.names()) == N_SPACES
    assert len(ALL) == N_SPACES * len(SCALES)
    assert [search_spaces.get(name).name for name in search_spaces.names()] == search_spaces.names()


@pytest.mark.parametrize(("name", "scale"), ALL)
def test_every_draw_makes_a_recipe(name: str, scale: str) -> None:
    space, setting, study = search_spaces.get(name), Setting(scale), new_study()  # type: ignore[arg-type]
    digests = set()
    for _ in range(N_TRIALS):
        _, overrides = ask(study, space, setting)
        digests.add(preset("contest-2021", scale).override(overrides).digest)
    assert len(digests) > N_TRIALS / 2, "a space that draws the same recipe over and over is not a space"


@pytest.mark.parametrize(("name", "scale"), ALL)
def test_a_name_keeps_one_distribution(name: str, scale: str) -> None:
    space, setting, study = search_spaces.get(name), Setting(scale), new_study()  # type: ignore[arg-type]
    first: dict[str, Any] = {}
    for _ in range(N_TRIALS):
        trial, _ = ask(study, space, setting)
        for parameter, distribution in trial.distributions.items():
            assert first.setdefault(parameter, distribution) == distribution, parameter
    assert set(first) <= set(space.parameters(setting))


@pytest.mark.parametrize(("name", "scale"), ALL)
def test_parameters_named_like_recipe_keys_set_them(name: str, scale: str) -> None:
    """`members.<member>.<key>` is a recipe key, too, and must be one of a member that the trial's split has."""
    space, setting, study = search_spaces.get(name), Setting(scale), new_study()  # type: ignore[arg-type]
    checked = set()
    for _ in range(N_TRIALS):
        trial, overrides = ask(study, space, setting)
        recipe = preset("contest-2021", scale).override(overrides)
        for parameter, value in trial.params.items():
            member, key = parts(parameter)
            if key in Recipe.model_fields:
                assert overrides[parameter] == value
                assert member in ("", *recipe.split.members)
                assert getattr(recipe.of_member(member), key) == value
                checked.add(bool(member))
            else:
                assert not member, "a member's parameter that no recipe has"
    assert checked == ({False, True} if name in ("task_split", "everything") else {False})


def parts(parameter: str) -> tuple[str, str]:
    """The member, "" for all of them, and the key that a parameter's name says."""
    prefix, _, rest = parameter.partition(".")
    member, _, key = rest.partition(".")
    return (member, key) if prefix == MEMBERS else ("", parameter)


@pytest.mark.parametrize(("name", "scale"), ALL)
def test_points_lie_inside_the_space(name: str, scale: str) -> None:
    space, setting, study = search_spaces.get(name), Setting(scale), new_study()  # type: ignore[arg-type]
    points = space.points(setting)
    assert points
    for point in points:
        study.enqueue_trial(point)
    for point in points:
        trial, _ = ask(study, space, setting)
        assert trial.params == point, "a point must give every parameter of its trial, and no other"


@pytest.mark.parametrize(("name", "scale"), ALL)
def test_tpe_goes_on_from_the_points(name: str, scale: str) -> None:
    """Grouped multivariate TPE, as searches use it, past its random start: it refuses a changed distribution."""
    space, setting = search_spaces.get(name), Setting(scale)  # type: ignore[arg-type]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study = new_study(optuna.samplers.TPESampler(multivariate=True, group=True, seed=0, n_startup_trials=5))
    for point in space.points(setting):
        study.enqueue_trial(point)
    for number in range(12):
        trial, _ = ask(study, space, setting)
        study.tell(trial, number / 12)


@pytest.mark.parametrize(("name", "scale"), ALL)
def test_each_parameter_can_be_pinned(name: str, scale: str) -> None:
    space, setting = search_spaces.get(name), Setting(scale)  # type: ignore[arg-type]
    trial, drawn = ask(new_study(), space, setting)
    for parameter, value in trial.params.items():
        pinned = space.pinned({parameter: value})
        study = new_study(optuna.samplers.RandomSampler(seed=1))
        for point in pinned.points(setting):
            study.enqueue_trial(point)
            tried, _ = ask(study, pinned, setting)
            assert point.items() <= tried.params.items(), (
                "a point keeps no parameter that depends on another choice than the pinned one"
            )
        for _ in range(10):
            again, overrides = ask(study, pinned, setting)
            assert parameter not in again.params
            assert overrides.get(parameter, value) == value
    assert drawn


@pytest.mark.parametrize("name", search_spaces.names())
def test_a_module_says_what_it_asks_and_how(name: str) -> None:
    module = sys.modules.get(f"search_spaces.{name}") or __import__(f"search_spaces.{name}", fromlist=["SPACE"])
    assert module.__doc__
    assert module.__doc__.partition("\n")[0].endswith("?")
    assert f"python -m tune.search --space {name} " in module.__doc__
    assert "Bounds." in module.__doc__
    assert search_spaces.get(name).question.endswith("?")


def test_spaces_are_pure_declarations() -> None:
    code = (
        "import sys, search_spaces as s\n"
        "for name in s.names(): s.get(name).parameters(s.Setting('gpu'))\n"
        "print(sorted({m.partition('.')[0] for m in sys.modules} "
        "& {'torch', 'ray', 'optuna', 'timm', 'numpy', 'pydantic', 'maskcls'}))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_trial_0_of_every_preset_is_no_point_outside_the_recipe() -> None:
    """A preset's values for what a space varies must themselves be recipes at each scale, whatever the space adds."""
    for chosen in PRESETS:
        for scale in SCALES:
            base = preset(chosen, scale)
            for name in search_spaces.names():
                space, setting = search_spaces.get(name), Setting(scale)  # type: ignore[arg-type]
                pins = {key: getattr(base, key) for key in space.parameters(setting) if key in Recipe.model_fields}
                _, overrides = ask(new_study(), space.pinned(pins), setting)
                assert all(base.override(overrides).model_dump()[key] == value for key, value in pins.items())


def test_no_weights_at_all_is_a_clear_error() -> None:
    with pytest.raises(
        SpaceError,
        match=r"None of the space's backbones has weights here: resnet10t, .* --weights hub or --weights none",
    ):
        search_spaces.get("backbones").parameters(Setting("cpu", lambda backbone: False))


@pytest.mark.parametrize(("name", "scale"), ALL)
def test_random_weights_are_never_frozen(name: str, scale: str) -> None:
    space, setting, study = search_spaces.get(name), Setting(scale, pretrained=False), new_study()  # type: ignore[arg-type]
    for point in space.points(setting):
        study.enqueue_trial(point)
    for _ in range(20):
        _, overrides = ask(study, space, setting)
        recipe = base_recipe("contest-2021", scale, {"weights": "none"}, demo=False).override(overrides)
        assert recipe.frozen_stages == 0
    assert "frozen_stages" not in space.parameters(setting)
    assert {key for point in space.points(setting) for key in point} <= set(space.parameters(setting))
