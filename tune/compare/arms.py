"""What is compared: arms of comparisons, each a recipe and a treatment; and the splits that all of them share.

Repeat i trains every arm with seed i on fold i mod k: the fold's people are tested, a part of the others picks the epoch, the rest
is trained on. The folds are drawn over the split's train and validation people; its holdout is never touched.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from maskcls import seeds
from maskcls.errors import CallError, DataError
from maskcls.files import write_atomically
from maskcls.recipe import Recipe
from tune.compare.studies import Comparison, Variant
from tune.runs.folder import ComparisonRun

if TYPE_CHECKING:
    from maskcls.data.dataset import FaceDataset
    from maskcls.data.splits import Split

VALIDATION = 0.15
"""Share of a repeat's other people whose score picks the epoch."""
MAX_FOLDS = 5
BASE = "base"
"""The name of a comparison's base in tables."""


@dataclass(frozen=True)
class Arm:
    """One way to train and to score. `recipe` still has the base's seed."""

    name: str
    recipe: Recipe
    treatment: str
    retrains: bool
    """Whether the treatment changes training, so that its fits are its own."""

    @property
    def trained(self) -> str:
        """The treatment that it is trained with."""
        return self.treatment if self.retrains else ""

    def fit_id(self, repeat: int, split_digest: str, data_digest: str) -> str:
        """16 hex digits, the same for arms whose fits of that repeat would be the same."""
        parts = [self.recipe.override({"seed": repeat}).digest, self.trained, split_digest, data_digest]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class PlannedComparison:
    """A comparison whose recipes are made."""

    name: str
    claim: str
    source: str
    base: Arm
    variants: tuple[Arm, ...]

    @property
    def arms(self) -> tuple[Arm, ...]:
        """The base, then the variants."""
        return (self.base, *self.variants)


def parse_vary(texts: Iterable[str]) -> dict[str, list[Any]]:
    """`key=v1,v2` or `key=[JSON, ...]` -> values by key, numbers read as numbers. Raises CallError without `=`, or on a key given twice."""
    varied: dict[str, list[Any]] = {}
    for text in texts:
        key, equals, said = (part.strip() for part in text.partition("="))
        if not equals or not key:
            raise CallError(f"--vary expects key=value,value, as in --vary loss=focal,cross_entropy, but got {text!r}.")
        if key in varied:
            raise CallError(f"--vary {key} is given twice. Put all its values into one.")
        if key == "seed":
            raise CallError("--vary seed is not for a comparison: repeats differ by it. Say how many with --seeds.")
        listed = _json(said)
        values = listed if isinstance(listed, list) else [_json(part.strip()) for part in said.split(",")]
        varied[key] = [value for n, value in enumerate(values) if value not in values[:n]]
    return varied


def merge_vary(before: Mapping[str, Sequence[Any]], more: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    """Values by key of both, in their order, each once."""
    both = {key: list(values) for key, values in before.items()}
    for key, values in more.items():
        there = both.setdefault(key, [])
        there += [value for value in values if value not in there]
    return both


def comparison_of_values(base: Recipe, vary: Mapping[str, Sequence[Any]], grid: bool) -> Comparison:
    """The comparison of `--vary`: each value other than the base's own is a variant, or each combination of values (`grid`).

    Raises CallError for a key or value that a recipe has not, and where nothing is left to vary.
    """
    keys = list(vary)
    chosen = (
        [dict(zip(keys, values, strict=True)) for values in itertools.product(*vary.values())]
        if grid
        else [{key: value} for key in keys for value in vary[key]]
    )
    variants = [Variant(variant_name(overrides), overrides) for overrides in chosen if base.override(overrides) != base]
    if not variants:
        own = ", ".join(f"{key}={format_value(value)}" for overrides in chosen for key, value in overrides.items())
        raise CallError(f"Nothing is left to vary: the base has {own} itself. Give --vary a value that it has not.")
    return Comparison("variants", base={}, variants=variants)


def variant_name(overrides: Mapping[str, Any]) -> str:
    """Overrides as a variant's name."""
    return ", ".join(f"{key}={format_value(value)}" for key, value in overrides.items())


def format_value(value: Any) -> str:
    """A value as --vary takes it."""
    return value if isinstance(value, str) and value else json.dumps(value)


def plan_comparison(
    comparison: Comparison, base: Recipe, explicit: Mapping[str, Any]
) -> tuple[PlannedComparison, list[str]]:
    """The comparison with its recipes, and the names of the variants that are the base itself and so are left out.

    Precedence: base < the comparison's base < what the call says < a variant.

    Raises CallError naming the comparison and the variant for a wrong key, value or treatment.
    """
    where = f"Comparison {comparison.name}"
    of_base = _override(_override(base, comparison.base, where), explicit, where)
    first = _arm(BASE, of_base, comparison.treatment, where)
    arms, same = [], []
    for variant in comparison.variants:
        its = f"{where}, variant {variant.name}"
        arm = _arm(
            variant.name, _override(of_base, variant.overrides, its), variant.treatment or comparison.treatment, its
        )
        if (arm.recipe, arm.treatment) == (first.recipe, first.treatment):
            same.append(variant.name)
        else:
            arms.append(arm)
    return PlannedComparison(comparison.name, comparison.claim, comparison.source, first, tuple(arms)), same


def find_inapplicable(comparisons: Sequence[PlannedComparison], faces: FaceDataset) -> dict[tuple[str, str], str]:
    """The arms whose treatment does not apply to these photos, by comparison and name, and why."""
    from tune.compare.treatments import find

    arms = [(comparison.name, arm) for comparison in comparisons for arm in comparison.arms]
    why = {(name, arm.name): find(arm.treatment).applies(faces, arm.recipe) for name, arm in arms}
    return {arm: f"{reason}." for arm, reason in why.items() if reason}


def default_folds(repeats: int) -> int:
    """As many as repeats, from 2 to MAX_FOLDS."""
    return min(max(2, repeats), MAX_FOLDS)


def repeat_splits(run: ComparisonRun, faces: FaceDataset, repeats: int, folds: int, split_seed: int) -> list[Split]:
    """The split of each repeat, its `holdout` the tested people. One that the run has already is taken from there.

    Raises CallError for more folds than there are people, DataError for a damaged file.
    """
    from maskcls.data.splits import Split

    splits = []
    for number in range(repeats):
        file = run.repeat(folds, number)
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, draw_split(faces, number, folds, split_seed).to_json())
        splits.append(Split.from_json(file.read_text(encoding="utf-8"), str(file)))
    return splits


def find_untrainable(
    comparisons: Sequence[PlannedComparison], faces: FaceDataset, splits: Sequence[Split]
) -> dict[tuple[str, str], str]:
    """The arms whose recipe leaves a label without training photos in some repeat, by comparison and name, and why."""
    from maskcls.training.fit_data import check_trainable

    found = {}
    for comparison in comparisons:
        for arm in comparison.arms:
            try:
                for split in splits:
                    check_trainable(arm.recipe, replace(faces, split=split))
            except CallError as error:
                found[comparison.name, arm.name] = str(error)
    return found


def leave_out(
    comparisons: Sequence[PlannedComparison], left_out: Mapping[tuple[str, str], str]
) -> tuple[tuple[PlannedComparison, ...], list[str]]:
    """The comparisons without these arms, a comparison whose base is among them left out whole; and what is to be said of that."""
    left, notes = [], []
    for comparison in comparisons:
        of_base = left_out.get((comparison.name, comparison.base.name))
        why = {arm.name: of_base or left_out.get((comparison.name, arm.name)) for arm in comparison.variants}
        notes += [f"{comparison.name}, {name} is left out: {reason}" for name, reason in why.items() if reason]
        kept = tuple(arm for arm in comparison.variants if not why[arm.name])
        left += [replace(comparison, variants=kept)] if kept else []
    return tuple(left), notes


def draw_split(faces: FaceDataset, number: int, folds: int, split_seed: int) -> Split:
    """The split of repeat `number` (0-based). Every `folds` repeats the people are divided anew."""
    from maskcls.data import splits

    partition, fold = divmod(number, folds)
    persons = (*faces.split.train, *faces.split.validation)
    divided = splits.folds(faces.photos, folds, split_seed + partition, persons)[fold]
    others = faces.photos[faces.photos["person"].isin(divided.train)]
    seed = seeds.seed_of(split_seed, partition, fold)
    parts = splits.split_people(others, seed, (1 - VALIDATION, VALIDATION, 0.0))
    if not parts.validation:
        raise DataError(
            f"{len(persons)} people are too few for {folds} folds: of the {len(divided.train)} who are not tested, nobody is left to pick "
            "the epoch. Use fewer --folds, or more people."
        )
    return splits.Split(parts.train, parts.validation, divided.validation)


def _override(recipe: Recipe, values: Mapping[str, Any], where: str) -> Recipe:
    if "seed" in values:
        raise CallError(f"{where}: the repeats differ by their seeds, so nothing may fix one. Leave seed out.")
    try:
        return recipe.override(values)
    except CallError as error:
        raise CallError(f"{where}: {error}") from None


def _arm(name: str, recipe: Recipe, treatment: str, where: str) -> Arm:
    from tune.compare.treatments import find

    try:
        return Arm(name, recipe, treatment, find(treatment).retrains)
    except CallError as error:
        raise CallError(f"{where}: {error}") from None


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
