"""CompareOptions: what `tune.compare` is asked, typed, checked and resolved into comparisons.

What is compared, and how often, may grow: a resume adds values, comparisons and repeats, and what was trained is used
again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from maskcls.errors import CallError
from maskcls.recipe import Recipe
from maskcls.text import counted
from maskcls.training import presets
from tune.compare.arms import (
    Arm,
    PlannedComparison,
    comparison_of_values,
    default_folds,
    merge_vary,
    parse_vary,
    plan_comparison,
)
from tune.compare.corrected import EVERYBODY, JUDGED_PEOPLE, checked, claims
from tune.compare.studies import Comparison, Study, get, names
from tune.compare.treatments import CORRECTIONS
from tune.runs.cluster import Cluster
from tune.runs.folder import ComparisonRun
from tune.runs.options import RECORDED, SharedOptions, name_or_file
from tune.runs.record import ArmRecord, ComparedRecord, ComparisonRecord, now, refuse_contradictions
from tune.runs.shares import Share, resolve_scale, share

DEFAULT_SEEDS = 5


def _study_name(given: str | None, info: ValidationInfo) -> str | None:
    return given and name_or_file(given, info)


class CompareOptions(SharedOptions):
    """The options of `tune.compare`, by their names."""

    IDENTITY: ClassVar[tuple[str, ...]] = (
        *("data", "preset", "set", "epochs", "image_size", "weights", "scale", "split_seed", "split"),
        *("corrections", "skip_bad", "people_from", "extra", "max_megapixels", "max_aspect"),
        *("folds", "grid", "study", "one_at_a_time"),
    )
    CALL: ClassVar[tuple[str, ...]] = (
        *("vary", "study", "grid", "data", "preset", "set", "epochs", "image_size", "weights", "scale", "split_seed"),
        *("split", "corrections", "skip_bad", "people_from", "extra", "max_megapixels", "max_aspect"),
        *("folds", "seeds", "equal_time", *SharedOptions.MACHINE),
        "storage",
    )
    FOLLOWING: ClassVar[tuple[str, ...]] = ("folds", "one_at_a_time")
    WORK: ClassVar[str] = "a comparison"
    RECIPE_OPTIONS: ClassVar[Mapping[str, str]] = {"seed": "--seeds", "weights": "--weights"}

    preset: str = Field(presets.CONTEST_PRESET, description="recipe to start from")
    vary: dict[str, list[Any]] = Field({}, description="values to compare, by recipe key")
    study: Annotated[str | None, AfterValidator(_study_name)] = Field(
        None, description="a declared list of comparisons"
    )
    grid: bool = Field(False, description="combine all values of vary")
    one_at_a_time: bool = Field(False, description="vary one key at a time, which is done without it as well")
    equal_time: bool = Field(False, description="compare at equal time as well")
    seeds: int = Field(DEFAULT_SEEDS, ge=1, description="repeats")
    folds: int = Field(default_factory=lambda given: default_folds(given.get("seeds", DEFAULT_SEEDS)))

    @field_validator("vary", mode="before")
    @classmethod
    def _parsed(cls, vary: object) -> object:
        """As --vary gives it, `key=value,value` again and again, or by key."""
        return parse_vary(vary) if isinstance(vary, list | tuple) else vary

    @field_validator("vary")
    @classmethod
    def _weights_resolved(cls, vary: dict[str, list[Any]], info: ValidationInfo) -> dict[str, list[Any]]:
        if "weights" not in vary or info.context == RECORDED:
            return vary
        return {**vary, "weights": [presets.resolve_weights(one, info.data.get("data")) for one in vary["weights"]]}

    @field_validator("vary")
    @classmethod
    def _varied_corrections_there(cls, vary: dict[str, list[Any]], info: ValidationInfo) -> dict[str, list[Any]]:
        if CORRECTIONS not in vary or info.context == RECORDED:
            return vary
        return {**vary, CORRECTIONS: checked(vary[CORRECTIONS])}

    @field_validator("folds")
    @classmethod
    def _some_to_train_on(cls, folds: int) -> int:
        if folds < 2:
            raise CallError(f"--folds must be at least 2, or nobody would be left to train on, but got {folds}.")
        return folds

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.vary and self.study:
            raise CallError("--vary and --study both say what to compare. Give one of them.")
        if CORRECTIONS in self.vary and "corrections" in self.model_fields_set and self.corrections != "published":
            raise CallError("--vary corrections says which labels the arms have, so leave out --corrections.")
        if self.grid and self.one_at_a_time:
            raise CallError("--grid and --one-at-a-time exclude each other. Give one of them.")
        if self.grid and self.study:
            raise CallError("--grid combines the values of --vary; a study says itself what it compares. Leave it out.")
        return self

    @classmethod
    def of_run(cls, run: ComparisonRun) -> CompareOptions:
        """The options that the run recorded."""
        record = run.record()
        own = cls.recorded(record, name=run.name)
        return own.model_copy(update={"one_at_a_time": not own.grid})

    def to_config(self) -> dict[str, Any]:
        """As `SharedOptions.to_config`, with the values to compare as --vary takes them."""
        values = super().to_config()
        if self.vary:
            values["vary"] = [f"{key}={json.dumps(listed)}" for key, listed in self.vary.items()]
        return values

    def resumed(self, run: ComparisonRun) -> CompareOptions:
        """The run's own options with what this command adds: values, repeats, and how much work is done where.

        Raises CallError for options that contradict the run.
        """
        own = CompareOptions.of_run(run)
        refuse_contradictions(self, own, run.name)
        if self.vary and own.study:
            raise CallError(f"--vary cannot be added to a run of --study {own.study}. Start a new run for it.")
        new = [key for key in self.vary if key not in own.vary]
        if own.grid and new:
            raise CallError(
                f"--vary {new[0]} cannot be added to a run of --grid, for it would replace every combination. "
                "Values of "
                f"{' and '.join(own.vary)} can be added; for another key, start a new run."
            )
        merged = merge_vary(own.vary, self.vary)
        if merged.get(CORRECTIONS) != own.vary.get(CORRECTIONS):
            raise CallError(
                "--vary corrections cannot be added to a run, for its labels are what everybody is tested by. Start a "
                "new run."
            )
        values = self.machine_values(own) | {"vary": merged}
        values |= self.moved(own)
        values["equal_time"] = own.equal_time or self.equal_time
        if "seeds" in self.model_fields_set:
            values["seeds"] = self.seeds
        return own.model_copy(update=values)


@dataclass(frozen=True)
class ComparePlan:
    """What will be done. `notes`: what should be said about how it came to it."""

    title: str
    question: str
    comparisons: tuple[PlannedComparison, ...]
    scale: str
    repeats: int
    folds: int
    share: Share
    time_budget_s: float | None
    equal_time: bool
    notes: tuple[str, ...]

    @property
    def recipes(self) -> list[Recipe]:
        """Every arm's."""
        return [arm.recipe for comparison in self.comparisons for arm in comparison.arms]

    @property
    def n_fits(self) -> int:
        """Different fits, equal ones counted once."""
        return self.repeats * len(
            {(arm.recipe.digest, arm.trained) for comparison in self.comparisons for arm in comparison.arms}
        )

    def lines(self) -> list[str]:
        """For `--plan`: what would be compared, and with how many fits."""
        lines = []
        for comparison in self.comparisons:
            lines += [f"{comparison.name}{': ' * bool(comparison.claim)}{comparison.claim}"] * (
                len(self.comparisons) > 1
            )
            lines += [f"  {arm.name}: {_changes(comparison.base, arm)}" for arm in comparison.variants]
        share = self.share
        cores = counted(share.cpus, "core") + (f" and {share.gpus:g} GPUs" if share.gpus else "")
        epochs = sorted({arm.recipe.epochs for comparison in self.comparisons for arm in comparison.arms})
        fits = f"{self.n_fits} fits of {' or '.join(map(str, epochs))} epochs"
        fits += f": {self.repeats} repeats over {self.folds} folds"
        lines.append(f"{fits}, {share.parallel} at a time, {cores} each.")
        if self.equal_time:
            lines.append(
                "Then, at equal time: the faster ones again, for as many epochs as fit into the time of the slowest."
            )
        return lines

    def record(self, options: CompareOptions) -> ComparisonRecord:
        """For a new comparison.json. A resume must compare what was compared, so the scale is kept as it was found."""
        return ComparisonRecord(
            format=1,
            created=now(),
            call={**options.to_record(), "scale": self.scale},
            title=self.title,
            question=self.question,
            comparisons=[
                ComparedRecord(
                    name=one.name, claim=one.claim, source=one.source, arms=[_arm_record(arm) for arm in one.arms]
                )
                for one in self.comparisons
            ],
            notes=list(self.notes),
            sessions=[],
        )


def _changes(base: Arm, arm: Arm) -> str:
    """What a variant has otherwise than its base, for people."""
    before, after = base.recipe.model_dump(), arm.recipe.model_dump()
    changed = [f"{key} {before[key]} -> {value}" for key, value in after.items() if before[key] != value]
    return ", ".join([*changed, *([f"treatment {arm.treatment}"] if arm.treatment != base.treatment else [])])


def _arm_record(arm: Arm) -> ArmRecord:
    return ArmRecord(
        name=arm.name, treatment=arm.treatment, recipe=arm.recipe.model_dump(), recipe_digest=arm.recipe.digest
    )


def resolve(options: CompareOptions, machine: Cluster, study_file: Path | None = None) -> ComparePlan:
    """Make the plan for the options and the machine. Raises CallError.

    Precedence: preset < scale < a comparison's base < explicit values < a variant.

    Args:
        study_file: the run's copy of a user-supplied study, to go on with.
    """
    scale, notes = resolve_scale(options.scale, machine)
    explicit = options.explicit_values()
    base = presets.base_recipe(options.preset, scale, explicit, demo=options.data is None)
    study = _study(options, study_file)
    comparisons = study.comparisons if study else [comparison_of_values(base, options.vary, options.grid)]
    made, left_out = _planned(comparisons, base, explicit)
    if CORRECTIONS in options.vary:
        if options.data is None:
            raise CallError("--vary corrections is about labels of your own: give --data.")
        made = _on_judged_and_on_all(made, options.vary[CORRECTIONS])
    notes += left_out
    if options.seeds < 2:
        notes.append("One repeat gives no verdict: another seed may reverse every difference. Use --seeds 3 or more.")
    plan = ComparePlan(
        title=study.name if study else ", ".join(options.vary),
        question=study.question if study else f"Which of {', '.join(options.vary)} helps {options.preset}?",
        comparisons=made,
        scale=scale,
        repeats=options.seeds,
        folds=options.folds,
        share=Share(1, 1, 0.0),
        time_budget_s=options.time_budget_s,
        equal_time=options.equal_time,
        notes=tuple(notes),
    )
    return replace(plan, share=share(options, machine, scale, plan.n_fits))


def _planned(
    comparisons: Sequence[Comparison], base: Recipe, explicit: Mapping[str, Any]
) -> tuple[tuple[PlannedComparison, ...], list[str]]:
    """The comparisons that have a variant, and what is to be said of variants that are not compared."""
    made, notes = [], []
    for comparison in comparisons:
        found, same = plan_comparison(comparison, base, explicit)
        notes += [f"{comparison.name}, {name} is left out: with this call it is the base itself." for name in same]
        made += [found] if found.variants else []
    if not made:
        raise CallError(
            "Nothing is left to compare: with this call every variant is its base itself. Leave out what fixes them."
        )
    return tuple(made), notes


def _on_judged_and_on_all(
    comparisons: Sequence[PlannedComparison], corrections: Sequence[str]
) -> tuple[PlannedComparison, ...]:
    """The comparison twice, with the same fits: on people of whom a label was judged, and on everybody."""
    above = claims(corrections)
    (one,) = comparisons
    judged = replace(one, name=JUDGED_PEOPLE, claim=above[JUDGED_PEOPLE], judged=True)
    return judged, replace(one, name=EVERYBODY, claim=above[EVERYBODY])


def _study(options: CompareOptions, study_file: Path | None) -> Study | None:
    if options.study is None and not options.vary:
        listed = ", ".join(names()) or "none comes with the package"
        raise CallError(
            "What to compare is missing: give --vary key=value,value, as in --vary loss=focal,cross_entropy, or "
            "--study. "
            f"Studies: {listed}; or a Python file that defines STUDY."
        )
    return None if options.study is None else get(str(study_file or options.study))
