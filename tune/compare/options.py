"""CompareCall: what `tune.compare` was asked, checked and resolved into comparisons.

A run keeps the part of its call that says how is measured (IDENTITY). What is compared, and how often, may grow: a resume adds
values, comparisons and repeats, and what was trained is used again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from maskcls import presets
from maskcls.errors import CallError
from maskcls.recipe import Recipe
from maskcls.text import counted
from tune.compare.arms import (
    Arm,
    PlannedComparison,
    comparison_of_values,
    default_folds,
    merge_vary,
    parse_vary,
    plan_comparison,
)
from tune.compare.studies import Comparison, Study, get, names
from tune.runs.cluster import Cluster
from tune.runs.durations import budget_s
from tune.runs.record import now
from tune.search.options import checked_values, resolve_scale, share

IDENTITY = (
    "data",
    "preset",
    "set",
    "epochs",
    "image_size",
    "weights",
    "scale",
    "split_seed",
    "split",
    "corrections",
    "skip_bad",
    "folds",
    "grid",
    "study",
)
DEFAULT_SEEDS = 5


@dataclass(frozen=True)
class CompareCall:
    """The options of `tune.compare`, by their names. Paths are absolute, `weights` is resolved; `scale` may still be auto."""

    vary: Mapping[str, list[Any]]
    study: str | None
    grid: bool
    data: str | None
    preset: str
    set: tuple[str, ...]
    epochs: int | None
    image_size: int | None
    weights: str
    scale: str
    split_seed: int
    split: str | None
    corrections: str
    skip_bad: bool
    folds: int
    seeds: int = DEFAULT_SEEDS
    parallel: int | None = None
    gpus_per_trial: float | None = None
    cpus_per_trial: int | None = None
    time_budget: str | None = None

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> CompareCall:
        """From the door's values. Raises CallError for what cannot be meant, with nothing begun."""
        values = checked_values(
            options, cls.__dataclass_fields__, {"seed": "--seeds", "weights": "--weights"}, "a comparison"
        )
        values["vary"] = parse_vary(options["vary"] or ())
        if "weights" in values["vary"]:
            values["vary"]["weights"] = [
                presets.resolve_weights(weights, options["data"]) for weights in values["vary"]["weights"]
            ]
        values["study"] = _file_or_name(options["study"])
        if values["vary"] and values["study"]:
            raise CallError("--vary and --study both say what to compare. Give one of them.")
        if options["grid"] and options["one_at_a_time"]:
            raise CallError("--grid and --one-at-a-time exclude each other. Give one of them.")
        if options["grid"] and values["study"]:
            raise CallError("--grid combines the values of --vary; a study says itself what it compares. Leave it out.")
        values["seeds"] = DEFAULT_SEEDS if options["seeds"] is None else options["seeds"]
        values["folds"] = default_folds(values["seeds"]) if options["folds"] is None else options["folds"]
        if values["folds"] < 2:
            raise CallError(
                f"--folds must be at least 2, or nobody would be left to train on, but got {values['folds']}."
            )
        return cls(**values)

    @classmethod
    def recorded(cls, told: Mapping[str, Any], this: CompareCall, options: Mapping[str, Any]) -> CompareCall:
        """The run's own call (`told`), grown by this one's values and repeats, with its say in how much work is done where."""
        if this.vary and told["study"]:
            raise CallError(f"--vary cannot be added to a run of --study {told['study']}. Start a new run for it.")
        new = [key for key in this.vary if key not in told["vary"]]
        if told["grid"] and new:
            raise CallError(
                f"--vary {new[0]} cannot be added to a run of --grid, for it would replace every combination. Values of "
                f"{' and '.join(told['vary'])} can be added; for another key, start a new run."
            )
        where = {name: options[name] for name in ("parallel", "gpus_per_trial", "cpus_per_trial", "time_budget")}
        seeds = told["seeds"] if options["seeds"] is None else this.seeds
        return cls(
            **{**told, **where, "set": tuple(told["set"]), "seeds": seeds, "vary": merge_vary(told["vary"], this.vary)}
        )

    def record(self) -> dict[str, Any]:
        """For comparison.json."""
        return {**asdict(self), "set": list(self.set)}


@dataclass(frozen=True)
class ComparePlan:
    """What will be done. `notes`: what should be said about how it came to it."""

    title: str
    question: str
    comparisons: tuple[PlannedComparison, ...]
    scale: str
    repeats: int
    folds: int
    parallel: int
    cpus: int
    gpus: float
    time_budget_s: float | None
    notes: tuple[str, ...]

    @property
    def n_fits(self) -> int:
        """Different fits, equal ones counted once."""
        return self.repeats * len(
            {(arm.recipe.digest, arm.trained) for comparison in self.comparisons for arm in comparison.arms}
        )

    def told(self) -> list[str]:
        """For `--plan`: what would be compared, and with how many fits."""
        lines = []
        for comparison in self.comparisons:
            lines += [f"{comparison.name}{': ' * bool(comparison.claim)}{comparison.claim}"] * (
                len(self.comparisons) > 1
            )
            lines += [f"  {arm.name}: {_changes(comparison.base, arm)}" for arm in comparison.variants]
        cores = counted(self.cpus, "core") + (f" and {self.gpus:g} GPUs" if self.gpus else "")
        epochs = sorted({arm.recipe.epochs for comparison in self.comparisons for arm in comparison.arms})
        fits = f"{self.n_fits} fits of {' or '.join(map(str, epochs))} epochs: {self.repeats} repeats over {self.folds} folds"
        return [*lines, f"{fits}, {self.parallel} at a time, {cores} each."]

    def record(self, call: CompareCall) -> dict[str, Any]:
        """For comparison.json. A resume must compare what was compared, so the scale is kept as it was found."""
        return {
            "format": 1,
            "created": now(),
            "call": {**call.record(), "scale": self.scale},
            "title": self.title,
            "question": self.question,
            "comparisons": [
                {
                    "name": one.name,
                    "claim": one.claim,
                    "source": one.source,
                    "arms": [_arm_record(arm) for arm in one.arms],
                }
                for one in self.comparisons
            ],
            "notes": list(self.notes),
            "parts": [],
        }


def _changes(base: Arm, arm: Arm) -> str:
    """What a variant has otherwise than its base, for people."""
    before, after = base.recipe.model_dump(), arm.recipe.model_dump()
    told = [f"{key} {before[key]} -> {value}" for key, value in after.items() if before[key] != value]
    return ", ".join([*told, *([f"treatment {arm.treatment}"] if arm.treatment != base.treatment else [])])


def _arm_record(arm: Arm) -> dict[str, Any]:
    return {
        "name": arm.name,
        "treatment": arm.treatment,
        "recipe": arm.recipe.model_dump(),
        "recipe_digest": arm.recipe.digest,
    }


def resolve(call: CompareCall, machine: Cluster, study_file: Path | None = None) -> ComparePlan:
    """Call and machine -> plan. Precedence: preset < scale < a comparison's base < what the call says < a variant. Raises CallError.

    Args:
        study_file: the run's copy of a study of one's own, to go on with.
    """
    scale, notes = resolve_scale(call.scale, machine)
    explicit = presets.explicit_values(
        call.set,
        Path(call.data) if call.data else None,
        epochs=call.epochs,
        image_size=call.image_size,
        weights=call.weights,
    )
    base = presets.base_recipe(call.preset, scale, explicit, demo=call.data is None)
    study = _study(call, study_file)
    comparisons = study.comparisons if study else [comparison_of_values(base, call.vary, call.grid)]
    made, left_out = _planned(comparisons, base, explicit)
    notes += left_out
    if call.seeds < 2:
        notes.append("One repeat cannot tell: another seed may turn every difference round. Use --seeds 3 or more.")
    shell = ComparePlan(
        title=study.name if study else ", ".join(call.vary),
        question=study.question if study else f"Which of {', '.join(call.vary)} helps {call.preset}?",
        comparisons=made,
        scale=scale,
        repeats=call.seeds,
        folds=call.folds,
        parallel=1,
        cpus=1,
        gpus=0.0,
        time_budget_s=budget_s(call.time_budget),
        notes=tuple(notes),
    )
    parallel, cpus, gpus = share(call, machine, scale, shell.n_fits)
    return replace(shell, parallel=parallel, cpus=cpus, gpus=gpus)


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


def _study(call: CompareCall, study_file: Path | None) -> Study | None:
    if call.study is None and not call.vary:
        listed = ", ".join(names()) or "none comes with the package"
        raise CallError(
            "What to compare is missing: give --vary key=value,value, as in --vary loss=focal,cross_entropy, or --study. "
            f"Studies: {listed}; or a Python file that defines STUDY."
        )
    return None if call.study is None else get(str(study_file or call.study))


def _file_or_name(study: str | None) -> str | None:
    if study is None or not (study.endswith(".py") or "/" in study):
        return study
    return str(Path(study).expanduser().resolve())
