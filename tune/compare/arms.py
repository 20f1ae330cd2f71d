"""What is compared: arms of comparisons, each a recipe and a treatment; and the splits that all of them share.

Repeat i trains every arm with seed i on fold i mod k: the fold's people are tested, some of the others pick the best
epoch, the rest are trained on. The folds are drawn over the split's train and validation people; its holdout is never
used.
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
from tune.compare.treatments import CORRECTIONS, corrections_name, find
from tune.runs.folder import ComparisonRun

if TYPE_CHECKING:
    from maskcls.data.dataset import FaceDataset
    from maskcls.data.splits import Split

VALIDATION = 0.15
"""Share of the people who are not tested in a repeat, by whose score the best epoch is picked."""
MAX_FOLDS = 5
BASE = "base"
"""The name of a comparison's base in tables."""


@dataclass(frozen=True)
class Arm:
    """One way to train and to score. Each repeat replaces the recipe's seed."""

    name: str
    recipe: Recipe
    treatment: str
    retrains: bool
    """Whether the treatment changes training, so that the arm cannot share the fits of an untreated one."""

    @property
    def trained(self) -> str:
        """The treatment that the arm is trained with; "" where the treatment only evaluates."""
        return self.treatment if self.retrains else ""

    def fit_id(self, repeat: int, split_digest: str, data_digest: str) -> str:
        """16 hex digits, the same for arms whose fits of that repeat would be the same."""
        parts = [self.recipe.override({"seed": repeat}).digest, self.trained, split_digest, data_digest]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class PlannedComparison:
    """A comparison with the recipes of its arms."""

    name: str
    claim: str
    source: str
    base: Arm
    variants: tuple[Arm, ...]
    judged: bool = False
    """Whether it is tested only on people of whom somebody judged a label (`tune.compare.corrected`)."""

    @property
    def arms(self) -> tuple[Arm, ...]:
        """The base, then the variants."""
        return (self.base, *self.variants)


def parse_vary(texts: Iterable[str]) -> dict[str, list[Any]]:
    """The values of `key=v1,v2` or `key=[JSON, ...]` by key; what looks like a number is one.

    Raises CallError for a text without `=`, a key that is given twice, or the key seed.
    """
    varied: dict[str, list[Any]] = {}
    for text in texts:
        key, equals, given = (part.strip() for part in text.partition("="))
        if not equals or not key:
            raise CallError(f"--vary expects key=value,value, as in --vary loss=focal,cross_entropy, but got {text!r}.")
        if key in varied:
            raise CallError(f"--vary {key} is given twice. Put all its values into one.")
        if key == "seed":
            raise CallError(
                "--vary seed is no comparison: the repeats differ in their seeds. Set their number with --seeds."
            )
        listed = _json(given)
        values = listed if isinstance(listed, list) else [_json(part.strip()) for part in given.split(",")]
        varied[key] = [value for n, value in enumerate(values) if value not in values[:n]]
    return varied


def merge_vary(before: Mapping[str, Sequence[Any]], more: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    """The values by key of both, in their order, each value once."""
    both = {key: list(values) for key, values in before.items()}
    for key, values in more.items():
        there = both.setdefault(key, [])
        there += [value for value in values if value not in there]
    return both


def comparison_of_values(base: Recipe, vary: Mapping[str, Sequence[Any]], grid: bool) -> Comparison:
    """The comparison of `--vary`: one variant per value that is not the base's own, or with `grid` one per combination.

    `corrections` is no key of a recipe: its values are treatments, and the base has the first.

    Raises CallError for a key or value that no recipe can have, and where nothing is left to vary.
    """
    keys = list(vary)
    chosen = (
        [dict(zip(keys, values, strict=True)) for values in itertools.product(*vary.values())]
        if grid
        else [{key: value} for key in keys for value in vary[key]]
    )
    own = _treatment(vary[CORRECTIONS][0]) if CORRECTIONS in vary else ""
    variants = []
    for values in chosen:
        overrides = {key: value for key, value in values.items() if key != CORRECTIONS}
        treatment = _treatment(values[CORRECTIONS]) if CORRECTIONS in values else own
        if base.override(overrides) != base or treatment != own:
            variants.append(Variant(variant_name(values), overrides, treatment))
    if not variants:
        listed = ", ".join(f"{key}={format_value(value)}" for values in chosen for key, value in values.items())
        raise CallError(f"Nothing is left to vary: the base has {listed} itself. Give --vary another value.")
    return Comparison("variants", base={}, variants=variants, treatment=own)


def _treatment(corrections: str) -> str:
    """The treatment that trains with the labels of these corrections."""
    return f"{CORRECTIONS}={corrections_name(corrections)}"


def variant_name(overrides: Mapping[str, Any]) -> str:
    """The name of a variant with these overrides, as in `loss=focal, frozen_stages=0`."""
    shown = {key: corrections_name(value) if key == CORRECTIONS else value for key, value in overrides.items()}
    return ", ".join(f"{key}={format_value(value)}" for key, value in shown.items())


def format_value(value: Any) -> str:
    """A value as text that --vary reads back."""
    return value if isinstance(value, str) and value else json.dumps(value)


def plan_comparison(
    comparison: Comparison, base: Recipe, explicit: Mapping[str, Any]
) -> tuple[PlannedComparison, list[str]]:
    """The comparison with its recipes, and the names of the variants that are left out because they equal the base.

    Precedence: base < the comparison's base < explicit options < a variant.

    Raises CallError, which names comparison and variant, for a wrong key, value or treatment.
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
    """Why arms cannot be compared on these photos, by comparison and arm: their treatment does not apply."""
    arms = [(comparison.name, arm) for comparison in comparisons for arm in comparison.arms]
    reasons = {(name, arm.name): find(arm.treatment).applies(faces, arm.recipe) for name, arm in arms}
    return {arm: f"{reason}." for arm, reason in reasons.items() if reason}


def default_folds(repeats: int) -> int:
    """As many folds as repeats, but at least 2 and at most MAX_FOLDS."""
    return min(max(2, repeats), MAX_FOLDS)


def repeat_splits(run: ComparisonRun, faces: FaceDataset, repeats: int, folds: int, split_seed: int) -> list[Split]:
    """The split of each repeat, with the tested people as its `holdout`. One that the run has already is read from it.

    Raises:
        CallError: more folds than people.
        DataError: a split's file is damaged, or too few people are left to train.
    """
    from maskcls.data.splits import Split

    splits = []
    for number in range(repeats):
        file = run.repeat(folds, number)
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, draw_split(faces, number, folds, split_seed).to_json())
        splits.append(Split.load(file))
    return splits


def find_untrainable(
    comparisons: Sequence[PlannedComparison], faces: FaceDataset, splits: Sequence[Split]
) -> dict[tuple[str, str], str]:
    """Why arms cannot be trained, by comparison and arm: some repeat leaves a label without training photos, or nothing
    here finds the faces that photos are to be cut to.
    """
    from maskcls.data.faces.detectors import DETECTORS
    from maskcls.training.fit_data import check_trainable

    found = {}
    for comparison in comparisons:
        for arm in comparison.arms:
            try:
                for split in splits:
                    check_trainable(arm.recipe, replace(faces, split=split))
            except CallError as error:
                found[comparison.name, arm.name] = str(error)
            detector = DETECTORS.get(arm.recipe.face_crop)
            if detector is not None and detector.why_not():
                found[comparison.name, arm.name] = detector.why_not()
    return found


def leave_out(
    comparisons: Sequence[PlannedComparison], left_out: Mapping[tuple[str, str], str]
) -> tuple[tuple[PlannedComparison, ...], list[str]]:
    """The comparisons without the arms in `left_out`, and a note on each variant that is left out.

    Without its base, no variant of a comparison can be compared, so all of them are left out.
    """
    remaining, notes = [], []
    for comparison in comparisons:
        of_base = left_out.get((comparison.name, comparison.base.name))
        reasons = {arm.name: of_base or left_out.get((comparison.name, arm.name)) for arm in comparison.variants}
        notes += [f"{comparison.name}, {name} is left out: {reason}" for name, reason in reasons.items() if reason]
        kept = tuple(arm for arm in comparison.variants if not reasons[arm.name])
        remaining += [replace(comparison, variants=kept)] if kept else []
    return tuple(remaining), notes


def draw_split(faces: FaceDataset, number: int, folds: int, split_seed: int) -> Split:
    """The split of repeat `number`, from 0. After every `folds` repeats the people are divided again, differently."""
    from maskcls.data import splits

    partition, fold = divmod(number, folds)
    persons = (*faces.split.train, *faces.split.validation)
    # The fold's people are `validation` of this first division; here they are tested, and so become the holdout.
    divided = splits.folds(faces.photos, folds, split_seed + partition, persons)[fold]
    others = faces.photos[faces.photos["person"].isin(divided.train)]
    seed = seeds.seed_of(split_seed, partition, fold)
    parts = splits.split_people(others, seed, (1 - VALIDATION, VALIDATION, 0.0))
    if not parts.validation:
        raise DataError(
            f"{len(persons)} people are too few for {folds} folds: of the {len(divided.train)} who are not tested, "
            "nobody is left to pick the epoch. Use fewer --folds, or more people."
        )
    return splits.Split(parts.train, parts.validation, divided.validation)


def _override(recipe: Recipe, values: Mapping[str, Any], where: str) -> Recipe:
    if "seed" in values:
        raise CallError(f"{where}: the repeats differ in their seeds, so no recipe may fix one. Leave seed out.")
    try:
        return recipe.override(values)
    except CallError as error:
        raise CallError(f"{where}: {error}") from None


def _arm(name: str, recipe: Recipe, treatment: str, where: str) -> Arm:
    try:
        return Arm(name, recipe, treatment, find(treatment).retrains)
    except CallError as error:
        raise CallError(f"{where}: {error}") from None


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
