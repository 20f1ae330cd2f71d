"""SearchOptions: what `tune.search` is asked, typed, checked and resolved into a plan."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from maskcls.data.faces import model_file
from maskcls.errors import CallError
from maskcls.files import FileKind
from maskcls.models import weights
from maskcls.recipe import N_STAGES, Recipe
from maskcls.training import presets
from search_spaces import Setting, Space, SpaceError, get
from tune.runs.cluster import Cluster
from tune.runs.folder import DEFAULT_KEEP, SearchRun
from tune.runs.options import RECORDED, SharedOptions, name_or_file
from tune.runs.record import MANY, RankedRecord, SearchRecord, SpaceRecord, now, refuse_contradictions
from tune.runs.shares import Share, resolve_scale, share
from tune.search.plan import ASHA, LOGGERS, NONE, TPE, Sampler, Scheduler, SearchPlan, pinned_space

DEFAULT_SPACE = "backbones"
DEFAULT_TRIALS, DEFAULT_FINALISTS, DEFAULT_REPEATS = 12, 3, 3
SPACE_COPY = "space.py"
SPACE_FILE = FileKind("a space: a Python file", "Restore it from a backup, or name another with --space.")
FACE_CROP = "face_crop"


def _default_trials(given: dict[str, Any]) -> int | None:
    return DEFAULT_TRIALS if given.get("time_budget") is None else None


class SearchOptions(SharedOptions):
    """The options of `tune.search`, by their names."""

    IDENTITY: ClassVar[tuple[str, ...]] = (
        *("data", "preset", "set", "epochs", "image_size", "weights", "scale"),
        *("seed", "split_seed", "split", "corrections", "skip_bad", "people_from", "extra"),
        *("max_megapixels", "max_aspect"),
    )
    CALL: ClassVar[tuple[str, ...]] = (
        *("space", "data", "preset", "set", "epochs", "image_size", "weights", "scale"),
        *("seed", "split_seed", "split", "corrections", "skip_bad", "people_from", "extra"),
        *("max_megapixels", "max_aspect", "trials", *SharedOptions.MACHINE),
        *(
            "sampler",
            "scheduler",
            "learn_from",
            "finalists",
            "repeats",
            "repeat_by",
            "single",
            "retrain_on_all",
            "log",
            "keep",
        ),
        "storage",
    )
    KEPT: ClassVar[tuple[str, ...]] = (
        *("trials", "sampler", "scheduler", "finalists", "repeats", "repeat_by", "space", "log", "keep"),
        "storage",
    )
    """Options of which a resume keeps the run's own value, unless it states another."""
    COMMAND: ClassVar[tuple[str, ...]] = (*SharedOptions.COMMAND, "study_storage")
    WORK: ClassVar[str] = "a search"
    RECIPE_OPTIONS: ClassVar[Mapping[str, str]] = {"seed": "--seed", "weights": "--weights"}

    space: Annotated[str, AfterValidator(name_or_file)] = Field("", description='what varies; "": not stated')
    seed: int = Field(0, ge=0, description="of the sampler, and of every fit")
    trials: int | None = Field(
        default_factory=_default_trials, ge=1, description="of the run in all; None: as many as the time budget allows"
    )
    sampler: Sampler = TPE
    scheduler: Scheduler = ASHA
    learn_from: tuple[Path, ...] = Field((), description="runs whose trials the sampler is to know")
    finalists: int = Field(DEFAULT_FINALISTS, ge=0, description="trials that are repeated; 0: none, and no holdout")
    repeats: int = Field(DEFAULT_REPEATS, ge=1, description="of each finalist")
    repeat_by: Literal["folds", "seeds"] = Field("folds", description="what the repeats differ in")
    single: bool = Field(False, description="hand over the winner's own model, also where a bag pays")
    retrain_on_all: bool = Field(False, description="fit the winner on train and validation people, too")

    keep: int = Field(DEFAULT_KEEP, ge=1, description="trials whose weights stay, the best ones")
    study_storage: str | None = Field(
        None, description="Optuna storage that gets a copy of the study, without password"
    )
    log: tuple[str, ...] = Field((), description="of LOGGERS: where Ray Tune logs the trials as well")

    @field_validator("study_storage")
    @classmethod
    def _without_password(cls, url: str | None) -> str | None:
        parts = urlsplit(url or "")
        if url is not None and not (parts.scheme and "://" in url):
            raise CallError(f"--study-storage expects an address such as postgresql://host/database, but got {url!r}.")
        if parts.password is not None:
            raise CallError(
                "--study-storage has a password in its address, which other users of the machine would see. Leave it "
                "out, and give it by PGPASSWORD or ~/.pgpass."
            )
        return url

    @field_validator("log")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in LOGGERS:
                raise CallError(f"--log must be one of {', '.join(LOGGERS)}, but got {name!r}.")
        return tuple(dict.fromkeys(names))

    @field_validator("learn_from")
    @classmethod
    def _found(cls, runs: tuple[Path, ...], info: ValidationInfo) -> tuple[Path, ...]:
        if info.context == RECORDED:
            return runs
        return tuple(SearchRun.open(run, info.data["runs"]).path for run in runs)

    def resumed(self, run: SearchRun) -> SearchOptions:
        """The run's own options with what this command changes: how much work is done where, and in which space.

        Raises CallError for options that contradict the run.
        """
        record = run.record()
        # Before there was this option, a run kept the weights of all trials.
        own = SearchOptions.recorded(record, name=run.name, **({} if "keep" in record.call else {"keep": MANY}))
        values = self.machine_values(own) | {
            name: getattr(self, name) for name in self.KEPT if name in self.model_fields_set
        }
        if values.get("trials", own.trials) is None and values["time_budget"] is None:
            values["time_budget"] = own.time_budget  # nothing else bounds it: as much time again
        if run.path in self.learn_from:
            raise CallError(f"--learn-from {run.name}: the run knows its own trials already. Name another run.")
        values |= self.moved(own)
        values["learn_from"] = tuple(dict.fromkeys((*own.learn_from, *self.learn_from)))
        values["single"] = own.single or self.single
        values["retrain_on_all"] = own.retrain_on_all or self.retrain_on_all
        refuse_contradictions(self, own, run.name)
        return own.model_copy(update=values)


@dataclass(frozen=True)
class Resolved:
    """A plan, and what the search should say about how it came to it."""

    plan: SearchPlan
    space: Space
    notes: tuple[str, ...]
    has_weights: Mapping[str, bool]
    """Each backbone that the space asked for."""

    @property
    def share(self) -> Share:
        """What each trial gets of the machine."""
        return Share(self.plan.parallel, self.plan.cpus, self.plan.gpus)

    def shared(self, share: Share, notes: list[str]) -> Resolved:
        """The same with another share of the machine, and notes that say why."""
        plan = replace(self.plan, parallel=share.parallel, cpus=share.cpus, gpus=share.gpus)
        return replace(self, plan=plan, notes=(*self.notes, *notes))

    @property
    def space_record(self) -> SpaceRecord:
        """For search.json."""
        return SpaceRecord(name=self.space.name, question=self.space.question)

    def record(self, options: SearchOptions) -> SearchRecord:
        """For a new search.json. A resume must search what was searched, so the scale is kept as it was found."""
        return SearchRecord(
            format=1,
            created=now(),
            call={**options.to_record(), "scale": self.plan.setting.scale},
            space=self.space_record,
            base_recipe=self.plan.base.model_dump(),
            notes=list(self.notes),
            has_weights=dict(self.has_weights),
            fixes_views=self.plan.fixes_views,
            sessions=[],
        )


def resolve(
    options: SearchOptions,
    machine: Cluster,
    space_file: Path | None = None,
    has_weights: Mapping[str, bool] | None = None,
    base_recipe: Mapping[str, Any] | None = None,
    *,
    fixes_views: bool = True,
    ranking: Sequence[RankedRecord] | None = None,
) -> Resolved:
    """Make the plan for the options and the machine. Precedence: preset < scale < space < explicit. Raises CallError.

    Args:
        has_weights: which backbones had weights when the run began: choices that depend on a folder of files must not
            change in a study.
        base_recipe: of a run that is resumed, which keeps it also where another version has another preset; None, or
            empty: the preset's.
        fixes_views: as of SearchPlan; a run keeps the rule that it began with.
        ranking: of a run that is resumed, its backbones as they were ranked.
    """
    space = _space(str(space_file or options.space))
    scale, notes = resolve_scale(options.scale, machine)
    explicit = options.explicit_values(seed=options.seed)
    served = _Weights(options.weights, has_weights or {})
    finds_faces = not model_file.why_not() or FACE_CROP in explicit
    setting = Setting("gpu" if scale == "gpu" else "cpu", served, options.weights != weights.NONE, finds_faces)
    setting = replace(setting, ranking=tuple(each.backbone for each in ranking or ()))
    if not setting.pretrained and "frozen_stages" not in explicit:
        notes.append("Weights are random, so nothing is frozen.")
    pinned, pins = pinned_space(space, explicit, setting)
    notes += [f"{name} is fixed at {explicit[name]}: the space would vary it." for name in pins]
    notes += _left_out(pinned, setting, options.weights)
    base = Recipe.checked(base_recipe) if base_recipe else _base(options, pinned, setting, explicit, notes)
    from tune.search.samplers import check_serves  # imports optuna, which reading a run's options need not wait for

    check_serves(options.sampler, pinned, setting)
    trials = options.trials or MANY
    shared = share(options, machine, scale, at_a_time(trials))
    plan = SearchPlan(
        space=pinned,
        setting=setting,
        base=base,
        explicit=explicit,
        trials=trials,
        seed=options.seed,
        parallel=shared.parallel,
        cpus=shared.cpus,
        gpus=shared.gpus,
        time_budget_s=options.time_budget_s,
        fits_after=fits_after(options),
        sampler=options.sampler,
        scheduler=options.scheduler,
        learn_from=options.learn_from,
        fits_epochs=options.time_budget_s is not None and _fits_epochs(base, {*explicit, *pinned.parameters(setting)}),
        fixes_views=fixes_views,
    )
    plan = replace(plan, base=Recipe.checked(plan.recipe({})))
    return Resolved(plan, space, tuple(notes), served.known)


def _base(
    options: SearchOptions, space: Space, setting: Setting, explicit: Mapping[str, Any], notes: list[str]
) -> Recipe:
    """The preset's recipe; where its backbone has no weights here, on the one with which the space begins, noted."""
    base = presets.base_recipe(options.preset, setting.scale, explicit, demo=options.data is None)
    is_stated = any("backbone" in key for key in explicit)
    if is_stated or not setting.pretrained or all(map(setting.has_weights, base.backbones)):
        return base
    begins = next((point for point in space.points(setting) if "backbone" in point), None)
    if begins is None:
        return base
    notes.append(f"The preset's backbone has no weights in {base.weights}: {begins['backbone']} takes its place.")
    taken: dict[str, Any] = {key: begins[key] for key in ("backbone", "image_size") if key in begins}
    return base.override({**taken, **explicit})


def _fits_epochs(base: Recipe, stated: Collection[str]) -> bool:
    """Whether the epochs may follow a time budget: neither the call nor the space states them or their photos.

    Where the whole backbone stands still, an epoch of kept features takes next to no time.
    """
    return not {"epochs", "epoch_photos"} & set(stated) and base.frozen_stages < N_STAGES


def _space(name_or_file: str) -> Space:
    """The space of that name, or the one that a file defines. Raises CallError."""
    try:
        return get(name_or_file)
    except SpaceError as error:
        raise CallError(str(error)) from None


def _left_out(space: Space, setting: Setting, folder: str) -> list[str]:
    """What a space would try if it were there: notes.

    Args:
        folder: of the weights, or hub.
    """
    backbones = space.left_out(setting)
    notes = [f"Left out, without weights in {folder}: {', '.join(backbones)}."] if backbones else []
    if not setting.finds_faces and FACE_CROP in space.parameters(replace(setting, finds_faces=True)):
        notes.append(f"Left out: {FACE_CROP}. {model_file.why_not()}")
    return notes


def fits_after(options: SearchOptions) -> int:
    """Count the fits that may follow a search: repeats of the finalists and of the preset, and the fit on all people.

    Where trials are stopped early, each finalist may have to be trained to its end as well.
    """
    repeats = (options.finalists + 1) * options.repeats if options.finalists else 0
    finishing = options.finalists if options.scheduler != NONE else 0
    return repeats + finishing + int(options.retrain_on_all)


def at_a_time(trials: int) -> int:
    """A third of the trials: with more of them at a time the sampler would have nothing to learn from."""
    return trials // 3


class _Weights:
    """Whether a backbone has weights: as it is known, or looked up and known from then on."""

    def __init__(self, weights: str, known: Mapping[str, bool]) -> None:
        self.known = dict(known)
        self._weights = weights

    def __call__(self, backbone: str) -> bool:
        return self.known.setdefault(backbone, weights.has_weights(backbone, self._weights))
