"""How often does an interval contain the true value, and how wide is it? tune.statistics beside other intervals.

    python -m tests.benchmarks.intervals drawn 600         # predictions drawn from a model; paired alone
    python -m tests.benchmarks.intervals trained 400       # classifiers are trained; minutes on one core
    python -m tests.benchmarks.intervals holdout 400       # a classifier's score on a holdout
    python -m tests.benchmarks.intervals mean 400          # the mean score of repeats, trained as in `trained`

`drawn` and `trained` are about tune.statistics.paired, `holdout` about tune.statistics.intervals, `mean` about
tune.statistics.repeated.

`drawn` is the model of tests/tune/statistics/test_paired.py: a seed's noise from none to twice the people's, no true
difference.

`trained` is ridge regression of the 18 classes, balanced, so that the training people of repeats overlap as they do in
folds: 400 drawn people, of whom base and variant see different features, equally good ones or not.

`holdout` keeps such a classifier fixed and draws holdouts of 69 and of 400 people, with the same number of each gender
and age group every time. The true score is that on 30,000 people of the same shares.
"""

from __future__ import annotations

import functools
import sys

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from maskcls.training.metrics import macro_f1, scores
from tests.tune.statistics import test_paired
from tune.statistics import intervals as of_people
from tune.statistics import paired, repeated
from tune.statistics.paired import Repeat, difference
from tune.statistics.repeated import RepeatPredictions, mean_f1_interval

PEOPLE, PHOTOS, FEATURES, RANDOM_FEATURES = 400, 7, 10, 30
MASKS = np.array([0, 0, 0, 0, 0, 1, 2])
STRATA_SHARES = np.array([0.24, 0.2, 0.035, 0.24, 0.24, 0.045])
DESIGNS = ((3, 3), (5, 5), (10, 5))  # repeats, folds
NAMES = ("this interval", "Student's t over repeats", "two-stage bootstrap, percentiles", "Nadeau and Bengio's t")

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def directions() -> Floats:
    """(4, FEATURES): directions of age, gender and the two rare masks in the features, the same in every experiment."""
    return np.random.default_rng(5).normal(size=(4, FEATURES)) * np.array([[0.45], [0.7], [1.2], [1.2]])


def photos_of(generator: np.random.Generator, strata: Integers, strength: float) -> Floats:
    """Features of everybody's photos; those of one person are similar. `strength`: how clearly they show the age."""
    age, gender, *masks = directions()
    people = len(strata)
    person = (
        generator.normal(size=(people, FEATURES)) + np.outer(strata % 3, age * strength) + np.outer(strata // 3, gender)
    )
    worn = np.stack([np.zeros(FEATURES), *masks])[np.tile(MASKS, people)]
    noise: Floats = 0.5 * generator.normal(size=(people * PHOTOS, FEATURES))
    return np.repeat(person, PHOTOS, axis=0) + worn + noise


def answered(seed: int, train: Floats, truth: Integers, test: Floats) -> Integers:
    """The classes that a classifier trained with this seed predicts."""
    generator = np.random.default_rng(seed)
    turn, shift = generator.normal(size=(FEATURES, RANDOM_FEATURES)), generator.normal(size=RANDOM_FEATURES)

    def seen(features: Floats) -> Floats:
        return np.hstack([features, np.maximum(features @ turn / 3 + shift, 0), np.ones((len(features), 1))])

    inputs = seen(train)
    weights = len(truth) / (18 * np.bincount(truth, minlength=18).clip(1))[truth]
    gram = inputs.T @ (inputs * weights[:, None]) + 20 * np.eye(inputs.shape[1])
    fitted = np.linalg.solve(gram, inputs.T @ (np.eye(18)[truth] * weights[:, None]))
    classes: Integers = (seen(test) @ fitted).argmax(1)
    return classes


def experiment(seed: int, repeats: int, folds: int, strength: float) -> list[Repeat]:
    """The predictions that tune.compare would have of these people: base and variant in every repeat."""
    generator = np.random.default_rng(seed)
    strata = generator.choice(6, p=STRATA_SHARES, size=PEOPLE)
    arms = [photos_of(generator, strata, 1.0), photos_of(generator, strata, strength)]
    truth = 6 * np.tile(MASKS, PEOPLE) + np.repeat(strata, PHOTOS)
    person = np.repeat(np.arange(PEOPLE), PHOTOS)
    made = []
    for number in range(repeats):
        if number % folds == 0:
            fold = np.empty(PEOPLE, int)
            fold[np.lexsort((generator.random(PEOPLE), strata))] = np.arange(PEOPLE) % folds
        tested = np.repeat(fold == number % folds, PHOTOS)
        trained = ~tested & np.repeat(generator.random(PEOPLE) < 0.85, PHOTOS)
        base, variant = (answered(number, arm[trained], truth[trained], arm[tested]) for arm in arms)
        made.append(Repeat(truth[tested], base, variant, person[tested], np.repeat(strata, PHOTOS)[tested]))
    return made


def intervals(repeats: list[Repeat], folds: int, generator: np.random.Generator) -> list[tuple[float, float]]:
    """(centre, half the width) of each of NAMES."""
    n = len(repeats)
    own = difference(repeats)
    seen = np.array([difference([repeat]).mean for repeat in repeats])
    resampled = np.array([_resampled(repeat, generator) for repeat in repeats])  # (n, resamples)
    drawn = resampled[generator.integers(0, n, (2000, n)), generator.integers(0, resampled.shape[1], (2000, n))].mean(1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    t, variance = float(stdtrit(n - 1, 0.975)), float(seen.var(ddof=1))
    halves = (t * np.sqrt(variance / n), t * np.sqrt(variance * (1 / n + 1 / (folds - 1))))
    return [
        (own.mean, own.high - own.mean),
        (own.mean, halves[0]),
        (float(low + high) / 2, float(high - low) / 2),
        (own.mean, halves[1]),
    ]


def _resampled(repeat: Repeat, generator: np.random.Generator, times: int = 200) -> Floats:
    """Differences under plain bootstrap resamples of a repeat's people within their strata."""
    _, first, person = np.unique(repeat.person, return_index=True, return_inverse=True)
    strata = repeat.stratum[first]
    weights = np.zeros((times, len(strata)))
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        weights[:, members] = generator.multinomial(len(members), np.full(len(members), 1 / len(members)), size=times)
    truth = weights @ of_people.class_counts(person, repeat.truth)
    f1 = [
        macro_f1(
            truth,
            weights @ of_people.class_counts(person, predicted),
            weights @ of_people.class_counts(person, predicted, predicted == repeat.truth),
        )
        for predicted in (repeat.variant, repeat.base)
    ]
    return f1[0] - f1[1]


def drawn(experiments: int) -> None:
    """Print the coverage where there is no difference, by repeats and by a seed's noise in units of the people's."""
    paired.RESAMPLES = 60  # type: ignore[attr-defined]
    for n in (3, 5, 10):
        for noise in (0.0, 0.5, 1.0, 1.5, 2.0):
            generator = np.random.default_rng(17)
            found = [
                difference(
                    [test_paired.repeat(generator, i, noise * test_paired.PEOPLES_NOISE, 0.0) for i in range(n)], seed
                )
                for seed in range(experiments)
            ]
            held = np.mean([one.low <= 0 <= one.high for one in found])
            half = np.mean([one.high - one.mean for one in found])
            print(
                f"{n} repeats, a seed's noise {noise:.1f} of the people's: contains it in {held:.3f}, "
                f"half its width is {half:.3f}",
                flush=True,
            )


def trained(experiments: int) -> None:
    """Print coverage and width of all four, with and without a true difference."""
    paired.RESAMPLES = 200  # type: ignore[attr-defined]
    for strength in (1.0, 1.25):
        for repeats, folds in DESIGNS:
            true = truth(folds, strength)
            found = [
                intervals(experiment(seed, repeats, folds, strength), folds, np.random.default_rng(seed))
                for seed in range(experiments)
            ]
            middles, halves = np.array(found).transpose(2, 0, 1)  # (experiments, names) each
            held = (np.abs(middles - true) <= halves).mean(0)
            print(f"true difference {true:+.4f}, {repeats} repeats, {folds} folds:", flush=True)
            for name, coverage, half in zip(NAMES, held, halves.mean(0), strict=True):
                print(f"  {name:34} contains it in {coverage:.3f}, half its width is {half:.3f}", flush=True)


@functools.cache
def truth(folds: int, strength: float, experiments: int = 150) -> float:
    """The mean difference with so many folds: fewer folds train on fewer people. Zero for equally good features."""
    if strength == 1:
        return 0.0
    return float(
        np.mean(
            [
                one.mean
                for one in (difference(experiment(50_000 + n, folds, folds, strength)) for n in range(experiments))
            ]
        )
    )


def mean(experiments: int) -> None:
    """Print coverage and width of the interval of a mean over folds."""
    repeated.RESAMPLES = 200  # type: ignore[attr-defined]
    for n, folds in DESIGNS:
        true = float(np.mean([_mean_of(50_000 + seed, folds, folds).f1 for seed in range(TRUE_MEANS)]))
        found = [_mean_of(seed, n, folds) for seed in range(experiments)]
        held = np.mean([one.low <= true <= one.high for one in found])
        halves = np.mean([one.high - one.low for one in found]) / 2
        print(
            f"{n} repeats, {folds} folds, true mean {true:.3f}: contains it in {held:.3f}, half its width is "
            f"{halves:.3f}",
            flush=True,
        )


TRUE_MEANS = 150


def _mean_of(seed: int, repeats: int, folds: int) -> of_people.Interval:
    made = experiment(seed, repeats, folds, 1.0)
    return mean_f1_interval([RepeatPredictions(one.truth, one.base, one.person, one.stratum) for one in made])


HOLDOUTS, CLASSIFIERS, TRUE_PEOPLE = (69, 400), 10, 30_000
HOLDOUT_NAMES = ("percentiles", "normal", "this interval (t)", "normal, on the logit")


def holdout(experiments: int) -> None:
    """Print how often a score's interval contains the true score, and how often that lies below and above it."""
    for strength in (1.0, 3.0):
        for people in HOLDOUTS:
            true, found = zip(
                *(holdouts(number, people, strength, experiments // CLASSIFIERS) for number in range(CLASSIFIERS)),
                strict=True,
            )
            ends = np.concatenate(found)  # (experiments, 4, low and high less the truth)
            print(f"{people} people, true macro F1 about {np.mean(true):.2f}:", flush=True)
            for name, (low, high) in zip(HOLDOUT_NAMES, ends.transpose(1, 2, 0), strict=True):
                held = np.mean((low <= 0) & (high >= 0))
                print(
                    f"  {name:22} contains it in {held:.3f} "
                    f"(below {np.mean(low > 0):.3f}, above {np.mean(high < 0):.3f}), "
                    f"half its width is {np.mean(high - low) / 2:.4f}",
                    flush=True,
                )


def holdouts(seed: int, people: int, strength: float, times: int) -> tuple[float, Floats]:
    """The true score of one classifier, and the intervals of so many holdouts minus that score, (times, 4, 2)."""
    generator = np.random.default_rng((seed, people))

    def drawn_from(strata: Integers) -> tuple[Floats, Integers]:
        return photos_of(generator, strata, strength), 6 * np.tile(MASKS, len(strata)) + np.repeat(strata, PHOTOS)

    train, train_truth = drawn_from(generator.choice(6, p=STRATA_SHARES, size=PEOPLE))
    strata = np.repeat(np.arange(6), _sizes(people))
    many, many_truth = drawn_from(np.tile(strata, TRUE_PEOPLE // people))
    true = scores(many_truth, answered(seed, train, train_truth, many)).f1
    found = []
    for _ in range(times):
        test, truth = drawn_from(strata)
        predicted = answered(seed, train, train_truth, test)
        person = np.repeat(np.arange(people), PHOTOS)
        counts = of_people.PredictionCounts.from_photos(truth, predicted, person, np.repeat(strata, PHOTOS))
        four = _four(counts.f1, counts.resampled(generator, 1000), counts.degrees_of_freedom(generator, 1000))
        found.append([(low - true, high - true) for low, high in four])
    return true, np.array(found)


def _four(seen: float, resampled: Floats, degrees_of_freedom: float) -> list[tuple[float, float]]:
    """The four intervals of a score, as HOLDOUT_NAMES lists them."""
    sd, z, t = float(resampled.std()), 1.959964, float(stdtrit(degrees_of_freedom, 0.975))
    logit, half = np.log(seen / (1 - seen)), z * float(np.log(resampled / (1 - resampled)).std())
    low, high = np.quantile(resampled, [0.025, 0.975])
    ends = [1 / (1 + np.exp(-(logit + side))) for side in (-half, half)]
    return [
        (float(low), float(high)),
        (seen - z * sd, seen + z * sd),
        (seen - t * sd, seen + t * sd),
        (float(ends[0]), float(ends[1])),
    ]


def _sizes(people: int) -> Integers:
    """Number of people in each stratum: the shares, rounded so that they add up."""
    shares = people * STRATA_SHARES / STRATA_SHARES.sum()
    sizes = np.floor(shares).astype(np.int64)
    sizes[np.argsort(sizes - shares, kind="stable")[: people - sizes.sum()]] += 1
    return sizes


if __name__ == "__main__":
    {"drawn": drawn, "trained": trained, "holdout": holdout, "mean": mean}[sys.argv[1]](int(sys.argv[2]))
