"""Call: what `tune.search` was asked, checked and resolved into a plan.

A run keeps the part of its call that says what is searched (IDENTITY); a resume takes it from there. The rest says how much work
is done where, and may change from one driver to the next.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from maskcls import presets
from maskcls.errors import CallError
from maskcls.models import weights
from maskcls.recipe import parse_settings
from search_spaces import Setting, Space, SpaceError, get
from tune.runs.cluster import Cluster
from tune.runs.durations import budget_s
from tune.runs.folder import SearchRun
from tune.search.plan import ASHA, MANY, SAMPLERS, SCHEDULERS, TPE, SearchPlan, pinned_space

if TYPE_CHECKING:
    from maskcls.data.dataset import FaceDataset
    from maskcls.stores.arrays import CacheOptions

IDENTITY = (
    "space",
    "data",
    "preset",
    "set",
    "epochs",
    "image_size",
    "weights",
    "scale",
    "seed",
    "split_seed",
    "split",
    "corrections",
    "skip_bad",
)
DEFAULT_TRIALS, DEFAULT_FINALISTS, DEFAULT_REPEATS = 12, 3, 3
FOLDS, SEEDS = "folds", "seeds"
SPACE_COPY = "space.py"
AUTO = "auto"
"""Of --gpus-per-trial: as `tune.search.gpu_sharing` measures. Until it has, as by default."""


class Shares(Protocol):
    """The part of a call that says how much of the machine a trial, or a fit, may use; None: as it fits."""

    @property
    def parallel(self) -> int | None: ...

    @property
    def cpus_per_trial(self) -> int | None: ...

    @property
    def gpus_per_trial(self) -> float | str | None: ...


@dataclass(frozen=True)
class Call:
    """The options of `tune.search`, by their names. Paths are absolute, `weights` is resolved; `scale` may still be auto."""

    space: str
    data: str | None
    preset: str
    set: tuple[str, ...]
    epochs: int | None
    image_size: int | None
    weights: str
    scale: str
    seed: int
    split_seed: int
    split: str | None
    corrections: str
    skip_bad: bool
    trials: int | None = DEFAULT_TRIALS
    """None: as many as the time budget allows."""
    parallel: int | None = None
    gpus_per_trial: float | str | None = None
    cpus_per_trial: int | None = None
    time_budget: str | None = None
    sampler: str = TPE
    scheduler: str = ASHA
    learn_from: tuple[str, ...] = ()
    finalists: int = DEFAULT_FINALISTS
    repeats: int = DEFAULT_REPEATS
    repeat_by: str = FOLDS
    retrain_on_all: bool = False

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Call:
        """From the door's values. Raises CallError for a folder or file that isn't there, and for numbers out of range."""
        values = checked_values(
            options, cls.__dataclass_fields__, {"seed": "--seed", "weights": "--weights"}, "a search"
        )
        values["space"] = space_name(options["space"])
        values["seed"] = options["seed"] or 0
        if values["trials"] is None and values["time_budget"] is None:
            values["trials"] = DEFAULT_TRIALS
        values["learn_from"] = _runs(options)
        defaults = {field.name: field.default for field in fields(cls) if field.name in _KEPT}
        values |= {name: defaults[name] for name in _KEPT if values[name] is None}
        return cls(**values)

    @classmethod
    def recorded(cls, run: SearchRun, options: Mapping[str, Any]) -> Call:
        """The run's own call, with this call's say in how much work is done where (None: as recorded, or by default)."""
        told = run.search()["call"]
        told = {**told, "set": tuple(told["set"]), "learn_from": tuple(told.get("learn_from", ()))}
        changed = {name: options[name] for name in ("parallel", "gpus_per_trial", "cpus_per_trial", "time_budget")}
        changed["gpus_per_trial"] = gpus_share(changed["gpus_per_trial"])
        if changed["gpus_per_trial"] is None and told["gpus_per_trial"] == AUTO:
            changed["gpus_per_trial"] = AUTO  # which is for any machine; a number may not be
        changed |= {name: options[name] for name in _KEPT if options[name] is not None}
        changed["trials"] = options["trials"] if options["trials"] is not None else told["trials"]
        _check_numbers(changed)
        if changed["trials"] is None and changed["time_budget"] is None:
            raise CallError(
                f"--resume {run.name}: the run had a time budget and no number of trials. Say how much more: --time-budget."
            )
        changed["learn_from"] = tuple(dict.fromkeys((*told["learn_from"], *_runs(options, run))))
        changed["retrain_on_all"] = options["retrain_on_all"] or told.get("retrain_on_all", False)
        return cls(**{**told, **changed})

    def record(self) -> dict[str, Any]:
        """For search.json."""
        return {**asdict(self), "set": list(self.set), "learn_from": list(self.learn_from)}


_KEPT = ("sampler", "scheduler", "finalists", "repeats", "repeat_by")
"""Options of which a resume keeps the run's own value, unless it says another."""


def _runs(options: Mapping[str, Any], own: SearchRun | None = None) -> tuple[str, ...]:
    """The runs of --learn-from, as absolute paths. Raises CallError for one that is not there, or is the run itself."""
    paths = [SearchRun.open(name, options["runs"]).path for name in options["learn_from"] or ()]
    if own is not None and own.path in paths:
        raise CallError(f"--learn-from {own.name}: the run knows its own trials already. Name another run.")
    return tuple(map(str, paths))


def checked_values(
    options: Mapping[str, Any], names: Iterable[str], fixed: Mapping[str, str], what: str
) -> dict[str, Any]:
    """A door's values of these names. Paths become absolute, `set` a tuple, `weights` what they mean.

    Args:
        fixed: recipe keys that --set must leave alone, and the door's own option for each.
        what: the door's work, as in "a search".

    Raises CallError for a folder or file that isn't there, for numbers out of range, and for a --set of those keys.
    """
    values = {name: options[name] for name in names}
    values["set"] = tuple(options["set"] or ())
    values["gpus_per_trial"] = gpus_share(options["gpus_per_trial"])
    for name in sorted(set(fixed) & parse_settings(values["set"]).keys()):
        raise CallError(f"--set {name} is not for {what}, which has an option of its own for it: {fixed[name]}.")
    values["weights"] = presets.resolve_weights(options["weights"], options["data"])
    values["data"] = _there(options["data"], "--data", "a folder in the contest's layout")
    values["split"] = _there(options["split"], "--split", "a JSON file with lists of people")
    if options["corrections"] not in ("published", "none"):
        values["corrections"] = _there(Path(options["corrections"]), "--corrections", "published, none, or a CSV file")
    _check_numbers(values)
    return values


def gpus_share(given: str | float | None) -> float | str | None:
    """--gpus-per-trial: AUTO, or a number of GPUs. Raises CallError for what is neither."""
    if given is None or given == AUTO:
        return given
    try:
        number = float(given)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise CallError(f"--gpus-per-trial expects auto, or a number of GPUs, as in 1 or 0.25, but got {given!r}.")
    return number


def _check_numbers(values: Mapping[str, Any]) -> None:
    """Raises CallError for a number out of range, and for a word that is none of an option's."""
    for least, names in (
        (1, ("trials", "seeds", "repeats", "parallel", "cpus_per_trial", "epochs")),
        (0, ("finalists", "gpus_per_trial")),
    ):
        for name in names:
            if values.get(name) not in (None, AUTO) and values[name] < least:
                raise CallError(f"--{name.replace('_', '-')} must be at least {least}, but got {values[name]}.")
    for name, words in (("sampler", SAMPLERS), ("scheduler", SCHEDULERS), ("repeat_by", (FOLDS, SEEDS))):
        if values.get(name) is not None and values[name] not in words:
            raise CallError(f"--{name.replace('_', '-')} must be one of {', '.join(words)}, but got {values[name]!r}.")
    budget_s(values["time_budget"])


@dataclass(frozen=True)
class Resolved:
    """A plan, and what the search should say about how it came to it."""

    plan: SearchPlan
    space: Space
    notes: tuple[str, ...]
    has_weights: Mapping[str, bool]
    """Each backbone that the space asked for."""


def resolve(
    call: Call, machine: Cluster, space_file: Path | None = None, has_weights: Mapping[str, bool] | None = None
) -> Resolved:
    """Call and machine -> plan. Precedence: preset < scale < space < explicit. Raises CallError.

    Args:
        has_weights: which backbones had weights when the run began: choices that hang on a folder of files must not change in a study.
    """
    try:
        space = get(str(space_file or call.space))
    except SpaceError as error:
        raise CallError(str(error)) from None
    scale, notes = resolve_scale(call.scale, machine)
    explicit = presets.explicit_values(
        call.set,
        Path(call.data) if call.data else None,
        epochs=call.epochs,
        image_size=call.image_size,
        weights=call.weights,
        seed=call.seed,
    )
    base = presets.base_recipe(call.preset, scale, explicit, demo=call.data is None)
    served = _Weights(call.weights, has_weights or {})
    setting = Setting("gpu" if scale == "gpu" else "cpu", served, pretrained=call.weights != weights.NONE)
    if not setting.pretrained and "frozen_stages" not in explicit:
        notes.append("Weights are random, so nothing is frozen.")
    pinned, pins = pinned_space(space, explicit, setting)
    notes += [f"{name} is fixed at {explicit[name]}: the space would vary it." for name in pins]
    left_out = pinned.left_out(setting)
    if left_out:
        notes.append(f"Left out, without weights in {call.weights}: {', '.join(left_out)}.")
    from tune.search.samplers import check_serves  # imports optuna: a door's --help need not wait for it

    check_serves(call.sampler, pinned, setting)
    trials = MANY if call.trials is None else call.trials
    # Not more at a time than a third of the trials, or the sampler would have nothing to learn from.
    parallel, cpus, gpus = share(call, machine, scale, trials // 3)
    plan = SearchPlan(
        space=pinned,
        setting=setting,
        base=base,
        explicit=explicit,
        trials=trials,
        seed=call.seed,
        parallel=parallel,
        cpus=cpus,
        gpus=gpus,
        time_budget_s=budget_s(call.time_budget),
        fits_after=call.finalists * call.repeats,
        sampler=call.sampler,
        scheduler=call.scheduler,
        learn_from=tuple(map(Path, call.learn_from)),
    )
    return Resolved(plan, space, tuple(notes), served.known)


class _Weights:
    """Whether a backbone has weights: as it is known, or looked up and known from then on."""

    def __init__(self, weights: str, known: Mapping[str, bool]) -> None:
        self.known = dict(known)
        self._weights = weights

    def __call__(self, backbone: str) -> bool:
        return self.known.setdefault(backbone, weights.has_weights(backbone, self._weights))


def resolve_scale(scale: str, machine: Cluster) -> tuple[str, list[str]]:
    """The scale, and what to say of how it came about."""
    resolved = presets.resolve_scale(scale, gpu=machine.gpus > 0)
    if (scale, resolved) == ("auto", "cpu"):
        return resolved, [
            "No GPU was found: CPU scale, with small backbones and small photos. --scale gpu overrules it."
        ]
    return resolved, []


class ReadsData(Protocol):
    """The part of a call that says which photos and people it is about."""

    @property
    def data(self) -> str | None: ...
    @property
    def corrections(self) -> str: ...
    @property
    def split(self) -> str | None: ...
    @property
    def split_seed(self) -> int: ...
    @property
    def skip_bad(self) -> bool: ...


def cache_options(options: Mapping[str, Any]) -> CacheOptions:
    """Where the call keeps decoded photos and frozen features; without --cache each machine's own place."""
    from maskcls.stores.arrays import CacheOptions

    cache = options["cache"]
    return CacheOptions(cache and cache.expanduser().resolve(), options["pixel_store_gb"], options["feature_store_gb"])


def prepared(call: ReadsData, options: Mapping[str, Any]) -> FaceDataset:
    """The call's photos, corrected and split, with a bar on a terminal. Raises DataError listing what is wrong with them."""
    from maskcls.data.dataset import prepare

    return prepare(
        Path(call.data) if call.data else None,
        corrections=call.corrections,
        split_file=Path(call.split) if call.split else None,
        split_seed=call.split_seed,
        skip_bad=call.skip_bad,
        cache=cache_options(options),
        progress=True,
    )


def share(call: Shares, machine: Cluster, scale: str, wanted: int) -> tuple[int, int, float]:
    """(how many trials run at a time, cores of each, GPUs of each); on CPUs not more at a time than `wanted`.

    On the CPU one thread each: two torch threads beside another busy process run three times slower than one.
    Raises CallError for what the machine has not.
    """
    said = call.gpus_per_trial
    gpus = said if isinstance(said, float | int) else float(scale == "gpu" and min(1.0, machine.gpus))
    least = call.cpus_per_trial or 1
    for option, asked, there in (("--gpus-per-trial", gpus, machine.gpus), ("--cpus-per-trial", least, machine.cpus)):
        if asked > there:
            raise CallError(
                f"{option} {asked:g} is more than there is on one machine ({there:g}): no trial would ever start. Give less."
            )
    room = machine.room(least, gpus)
    if not room:
        raise CallError(f"No machine has both {least} cores and {gpus:g} GPUs: no trial would ever start. Give less.")
    parallel = call.parallel or (room if gpus else min(room, max(1, wanted)))
    cpus = call.cpus_per_trial or next((n for n in range(machine.cpus, 1, -1) if machine.room(n, gpus) >= parallel), 1)
    return parallel, cpus, gpus


def space_name(name_or_file: str) -> str:
    """A name as it is, a file as an absolute path."""
    is_file = name_or_file.endswith(".py") or "/" in name_or_file
    return str(Path(name_or_file).expanduser().resolve()) if is_file else name_or_file


def _there(path: Path | None, option: str, expected: str) -> str | None:
    if path is None:
        return None
    full = Path(path).expanduser().resolve()
    if not full.exists():
        raise CallError(f"{option} {path}: there is no such file or folder. Expected {expected}.")
    return str(full)
