"""SharedOptions: the options that `tune.search` and `tune.compare` share, typed from the command's function on.

A run keeps the options that say what is measured (IDENTITY), and a resume takes them from there. Others say how much
work is done where (MACHINE), or belong to one command alone (COMMAND); they may change from one driver to the next.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Protocol, Self, get_args

import typer
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    ValidationInfo,
    field_serializer,
    field_validator,
    model_validator,
)

from maskcls.command_line.options import stated
from maskcls.errors import CallError
from maskcls.files import address_of, expanded
from maskcls.models.weights import HUB, NONE
from maskcls.recipe import parse_settings
from maskcls.storage.address import checked
from maskcls.storage.mirror import fetched
from maskcls.stores.cache_options import DEFAULT_GB, CacheOptions
from maskcls.stores.photo_limits import StatedLimits
from maskcls.text import meant
from maskcls.training import presets
from tune.durations import budget_s
from tune.runs.folder import DEFAULT_RUNS
from tune.runs.joined_ray.address import refuse_client
from tune.runs.joined_ray.jobs import refuse_package
from tune.runs.joined_ray.nodes_aside import MAX_FAILURES

AUTO: Literal["auto"] = "auto"
"""Of --gpus-per-trial: as many trials share a GPU as its memory holds, which `tune.fitting.gpu_sharing` measures."""
EXPECTED_DATA = "a table of photos (.csv or .parquet), a folder with one, or a folder in the contest's layout"
RECORDED = "recorded"
"""Validation context of options that a run recorded: the files that they name may be gone since."""


class _Recorded(Protocol):
    """A record that keeps a command's options as JSON."""

    @property
    def call(self) -> dict[str, Any]: ...


def _gpus(given: object) -> float | str | None:
    """AUTO, or a number of GPUs. Raises CallError for anything else."""
    if given is None or given == AUTO:
        return given
    try:
        number = float(given) if isinstance(given, str | float | int) else math.nan
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise CallError(f"--gpus-per-trial expects auto, or a number of GPUs, as in 1 or 0.25, but got {given!r}.")
    return number


def _duration(text: str | None) -> str | None:
    budget_s(text)
    return text


def _absolute(path: Path | None) -> Path | None:
    return path and expanded(path).resolve()


def _storage(given: str | None, info: ValidationInfo) -> str | None:
    return given if given is None or info.context == RECORDED else checked(given)


class SharedOptions(BaseModel):
    """Options of `tune.search` and of `tune.compare`. A CallError says in one line which option is wrong, and how.

    Paths are absolute; `weights` is hub, none or a folder; `scale` may still be auto. `model_fields_set` names the
    options that were stated.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    IDENTITY: ClassVar[tuple[str, ...]]
    """Options that a run keeps for good: they say what is measured."""
    FOLLOWING: ClassVar[tuple[str, ...]] = ()
    """Those of IDENTITY whose default follows from options that may change, so that only a stated one contradicts."""
    CALL: ClassVar[tuple[str, ...]]
    """Options that a run's record keeps, in the order in which it does."""
    MOVABLE: ClassVar[tuple[str, ...]] = ("data", "extra")
    """Options of IDENTITY that say where something is: a resume may name its new place (`tune.runs.session`)."""
    MACHINE: ClassVar[tuple[str, ...]] = ("parallel", "gpus_per_trial", "cpus_per_trial", "time_budget")
    """Options that say how much work is done where. A resume states them again, or has their defaults."""
    COMMAND: ClassVar[tuple[str, ...]] = (
        *("runs", "resume", "new_run_from", "begin_or_resume", "address", "plan", "quiet", "as_json"),
        *("ship_data", "max_failures", "cache", "shared_cache", "pixel_store_gb", "feature_store_gb"),
    )
    """Options of one command alone, which no run keeps."""
    CALL_ALONE: ClassVar[frozenset[str]] = frozenset(
        ("resume", "new_run_from", "begin_or_resume", "plan", "quiet", "as_json")
    )
    """Those of COMMAND that a file for another run does not state: which run it is, and who hears of it."""
    WORK: ClassVar[str]
    """What the command does, for messages."""
    RECIPE_OPTIONS: ClassVar[Mapping[str, str]]
    """Recipe keys that `--set` must leave alone, and the command's own option for each."""

    # What is measured
    data: Path | None = Field(None, description="table, folder or address of photos; None: drawn demo faces")
    preset: str = Field(presets.DEFAULT_PRESET, description="recipe to start from")
    set: tuple[str, ...] = Field((), description="key=value: recipe values that are fixed")
    epochs: int | None = Field(None, ge=1, description="of a fit; None: the preset's")
    image_size: int | None = Field(None, description="edge of the square that the model sees, px; None: the preset's")
    weights: str = Field(
        default_factory=lambda given: presets.resolve_weights(None, given.get("data")),
        description="hub, none, or a folder of files; by default hub on real data, none on demo faces",
    )
    scale: str = Field("auto", description="auto, cpu or gpu")
    split_seed: int = Field(0, ge=0, description="seed of the split of the people")
    split: Path | None = Field(None, description="JSON file with lists of people; None: drawn from split_seed")
    corrections: str = Field("published", description="published, none, or a CSV file")
    skip_bad: bool = Field(False, description="leave out photos and people with problems")
    people_from: Literal["folder", "none"] | None = Field(None, description="whom a photo shows that nothing says")
    extra: Path | None = Field(None, description="for training alone, as data")
    max_megapixels: float | None = Field(None, ge=0, description="of a photo, 10**6 px; None: the environment's limit")
    max_aspect: float | None = Field(None, ge=1, description="of a photo, long edge by short; None: as before")

    # How much of the machine is used; None: as it fits
    parallel: int | None = Field(None, ge=1, description="trials, or fits, at a time")
    gpus_per_trial: Annotated[Annotated[float, Field(ge=0)] | Literal["auto"] | None, BeforeValidator(_gpus)] = Field(
        None, description="may be a fraction; auto: measured"
    )
    cpus_per_trial: int | None = Field(None, ge=1, description="cores, and threads")
    time_budget: Annotated[str | None, AfterValidator(_duration)] = Field(None, description="as in 90s, 30m, 2h")

    # Of this command alone
    runs: Annotated[Path, AfterValidator(expanded)] = Field(DEFAULT_RUNS, description="folder of all runs")
    name: str | None = Field(None, description="of the new run")
    storage: Annotated[str | None, AfterValidator(_storage)] = Field(None, description="keeps the run as well")
    resume: str | None = Field(None, description="the run to go on with, by path or by name")
    new_run_from: str | None = Field(None, description="the run whose options a new one has, by path or by name")
    address: Annotated[str | None, AfterValidator(refuse_client)] = Field(
        None, validate_default=True, description="Ray cluster; None: RAY_ADDRESS, or Ray is started here"
    )
    begin_or_resume: bool = Field(False, description="go on with the run `name` if there is one")
    plan: bool = Field(False, description="only say what would be done")
    quiet: bool = Field(False, description="print only errors and the result")
    as_json: bool = Field(False, description="print events as JSON to stdout (`tune.runs.events`)")
    ship_data: bool = Field(False, description="give decoded photos to nodes that do not see the photos")
    max_failures: int = Field(
        MAX_FAILURES, ge=1, description="in a row by the machine, after which a node is set aside"
    )
    cache: Annotated[Path | None, AfterValidator(_absolute)] = Field(
        None, description="folder for decoded photos and frozen features; None: each machine's own"
    )
    shared_cache: bool = Field(False, description="use a cache that others may write")
    pixel_store_gb: float = Field(DEFAULT_GB, ge=0, allow_inf_nan=True)
    feature_store_gb: float = Field(DEFAULT_GB, ge=0, allow_inf_nan=True)

    @classmethod
    def stated(cls, context: typer.Context) -> Self:
        """The options that a command line or its --config states; the others have their defaults.

        Raises CallError for a wrong one.
        """
        return cls.model_validate({name.rstrip("_"): context.params[name] for name in stated(context)})

    @classmethod
    def recorded(cls, record: _Recorded, **more: object) -> Self:
        """The options that a run's record keeps. Files that they name may be gone; unknown options are left alone.

        Args:
            more: options that follow from the record, but are not in it.
        """
        kept = {name: record.call[name] for name in record.call if name in cls.CALL}
        return cls.model_validate({**kept, **more}, context=RECORDED)

    def to_record(self) -> dict[str, Any]:
        """What a run's record keeps under `call`, ready for JSON."""
        values = self.model_dump(mode="json")
        return {name: values[name] for name in self.CALL}

    def to_config(self) -> dict[str, Any]:
        """What a file for --config states so that a new run gets these options, the run's name excepted.

        An option is left out if it would have the same value without being stated, except the preset: another version
        may have another default.
        """
        values = self.model_dump(mode="json") | {"runs": str(self.runs.absolute())}
        names = (*self.CALL, *(name for name in self.COMMAND if name not in self.CALL_ALONE))
        return {
            name: values[name] for name in names if name == "preset" or getattr(self, name) != self._if_not_stated(name)
        }

    def _if_not_stated(self, name: str) -> object:
        """The value that an option would have beside the others; some defaults depend on these."""
        others = {other: getattr(self, other) for other in type(self).model_fields if other != name}
        return getattr(type(self).model_validate(others, context=RECORDED), name)

    def machine_values(self, before: SharedOptions) -> dict[str, Any]:
        """What a resume takes from this command instead of the run: how much work is done where, and what no run keeps.

        Args:
            before: the run's own options.
        """
        values = {name: getattr(self, name) for name in (*self.MACHINE, *self.COMMAND)}
        values["storage"] = self.storage if "storage" in self.model_fields_set else before.storage
        if self.gpus_per_trial is None and before.gpus_per_trial == AUTO:
            values["gpus_per_trial"] = AUTO  # which is for any machine; a number may not be
        return values

    def moved(self, before: SharedOptions) -> dict[str, Any]:
        """Where this command says that the run's photos are now, by the options' names; {} where it does not.

        Args:
            before: the run's own options.
        """
        stated = [name for name in self.MOVABLE if name in self.model_fields_set]
        return {
            name: getattr(self, name) for name in stated if None not in (getattr(self, name), getattr(before, name))
        }

    def like(self, run: _Recorded, **own: object) -> Self:
        """The options that a run recorded, with what this command states, for a new run.

        Args:
            own: options that count before those that the run recorded, as the path of its copy of a space.

        Raises CallError where a file that they name is gone.
        """
        kept = type(self).recorded(run)
        stated = {name: getattr(self, name) for name in self.model_fields_set - {"new_run_from"}}
        return type(self).model_validate({**{name: getattr(kept, name) for name in self.CALL}, **own, **stated})

    @property
    def time_budget_s(self) -> float | None:
        """Seconds; None: no bound."""
        return budget_s(self.time_budget)

    @property
    def photos(self) -> Path | None:
        """Where the photos of `data` are on this machine, once fetched from an address. Raises DataError."""
        return _here(self.data, "--data", self.cache_options.folder)

    @property
    def extra_photos(self) -> Path | None:
        """Where those of `extra` are, as `photos`."""
        return _here(self.extra, "--extra", self.cache_options.folder)

    @property
    def ships(self) -> bool:
        """Whether nodes that do not see the photos are given them decoded."""
        return self.ship_data or any(map(address_of, (self.data, self.extra)))

    @field_serializer("data", "extra", when_used="json-unless-none")
    def _as_text(self, data: Path) -> str:
        return address_of(data) or str(data)

    @property
    def cache_options(self) -> CacheOptions:
        """Where decoded photos and frozen features are kept; without --cache each machine's own place."""
        return CacheOptions(
            self.cache, self.pixel_store_gb, self.feature_store_gb, limits=self.limits, shared=self.shared_cache
        )

    @property
    def limits(self) -> StatedLimits:
        """Of the photos that are decoded, here and in workers."""
        return StatedLimits(self.max_megapixels, self.max_aspect)

    def explicit_values(self, **own: int) -> dict[str, Any]:
        """Recipe values that the options fix. Raises CallError where two of them disagree.

        Args:
            own: by recipe key, options that only one command has.
        """
        return presets.explicit_values(
            self.set, self.data, epochs=self.epochs, image_size=self.image_size, weights=self.weights, **own
        )

    @field_validator("set")
    @classmethod
    def _of_the_recipe(cls, settings: tuple[str, ...]) -> tuple[str, ...]:
        for name in sorted(cls.RECIPE_OPTIONS.keys() & parse_settings(settings).keys()):
            raise CallError(
                f"--set {name} is not for {cls.WORK}, which has an option of its own for it: "
                f"{cls.RECIPE_OPTIONS[name]}."
            )
        return settings

    @field_validator("data", "extra")
    @classmethod
    def _data_there(cls, data: Path | None, info: ValidationInfo) -> Path | None:
        return existing(data, f"--{info.field_name}", EXPECTED_DATA, info)

    @field_validator("weights")
    @classmethod
    def _weights_there(cls, weights: str, info: ValidationInfo) -> str:
        return weights if info.context == RECORDED else presets.resolve_weights(weights, info.data.get("data"))

    @field_validator("split")
    @classmethod
    def _split_there(cls, split: Path | None, info: ValidationInfo) -> Path | None:
        return existing(split, "--split", "a JSON file with lists of people", info)

    @field_validator("corrections")
    @classmethod
    def _corrections_there(cls, corrections: str, info: ValidationInfo) -> str:
        if corrections in ("published", "none"):
            return corrections
        return str(existing(Path(corrections), "--corrections", "published, none, or a CSV file", info))

    @model_validator(mode="after")
    def _of_one_mind(self) -> Self:
        if self.begin_or_resume and self.resume is not None:
            raise CallError("--begin-or-resume and --resume exclude each other. Give one of them.")
        if self.new_run_from is not None and self.resume is not None:
            raise CallError("--new-run-from and --resume exclude each other: the one begins a run. Give one of them.")
        if self.begin_or_resume and not self.name:
            raise CallError("--begin-or-resume needs --name NAME, by which the run is found again.")
        if self.plan and (self.quiet or self.as_json):
            raise CallError("--plan prints a plan for people. Leave out --quiet and --json.")
        return self

    @model_validator(mode="after")
    def _outlasts_the_job(self, info: ValidationInfo) -> Self:
        """In a job of Ray's, nothing that a run needs later lies in the folder that Ray removes after the job."""
        if info.context != RECORDED:
            weights = Path(self.weights) if self.weights not in (HUB, NONE) else None
            # A resume names a folder that is there; of a storage the next job fetches the run.
            runs = self.runs if self.resume is None and self.storage is None else None
            stored = Path(self.storage) if self.storage and "://" not in self.storage else None
            photos = {"--data": self.data, "--extra": self.extra}
            places = {option: None if address_of(path) else path for option, path in photos.items()}
            refuse_package({**places, "--weights": weights, "--cache": self.cache, "--runs": runs, "--storage": stored})
        return self

    @model_validator(mode="wrap")
    @classmethod
    def _said_in_one_line(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """The first problem as a CallError. Validators raise their own, which pydantic lets through."""
        try:
            return handler(values)
        except ValidationError as error:
            raise CallError(cls._explained(error.errors()[0])) from None

    @classmethod
    def _explained(cls, problem: Any) -> str:
        name = str(problem["loc"][0]) if problem["loc"] else ""
        option, given, limits = f"--{name.replace('_', '-')}", problem["input"], problem.get("ctx", {})
        if "ge" in limits:
            return f"{option} must be at least {limits['ge']:g}, but got {given}."
        if problem["type"] == "literal_error":
            return f"{option} must be one of {', '.join(_words(cls.model_fields[name].annotation))}, but got {given!r}."
        if problem["type"] == "extra_forbidden":
            hint = " ".join(filter(None, [meant(name, cls.model_fields), f"Options: {', '.join(cls.model_fields)}."]))
            return f"There is no option {option}. {hint}"
        return f"{option}: {problem['msg']}, but got {given!r}."


def _here(data: Path | None, option: str, cache: Path) -> Path | None:
    return fetched(address, cache, option) if (address := address_of(data)) else data


def _words(annotation: object) -> Iterator[str]:
    """The words of a Literal, also of one beside None."""
    for one in get_args(annotation):
        yield from (one,) if isinstance(one, str) else _words(one)


def existing(path: Path | None, option: str, expected: str, info: ValidationInfo) -> Path | None:
    """The path made absolute. Raises CallError where it is not there; one that a run recorded is taken as it is."""
    if path is None or info.context == RECORDED:
        return path
    if option in ("--data", "--extra") and (address := address_of(path)):
        checked(address, option)
        return path
    full = expanded(path).resolve()
    if not full.exists():
        raise CallError(f"{option} {path}: there is no such file or folder. Expected {expected}.")
    return full


def name_or_file(given: str, info: ValidationInfo) -> str:
    """A name as it is, a Python file as an absolute path."""
    if info.context == RECORDED or not (given.endswith(".py") or "/" in given):
        return given
    return str(expanded(given).resolve())
