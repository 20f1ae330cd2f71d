"""The part of a search's page on how sure the winner may be: reliability before and after the bundle's temperature, and
how often it errs where it is sure enough to answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from maskcls.reports.page import Html, Section, folded, grid, listed, part, section, table
from maskcls.serving.calibration import Calibration, calibrated
from maskcls.serving.decision import Decision
from tune.report import group_plots
from tune.report.groups import Calibration as Reliability
from tune.report.groups import calibration, percent_text, score_text
from tune.report.predicted import Predicted
from tune.statistics.people import FEW_PEOPLE, Intervals, ratio

LIMITS = (0.0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
"""Values of --abstain that the table has."""


@dataclass(frozen=True)
class Abstaining:
    """What a limit of --abstain does."""

    limit: float
    share: tuple[float, float, float]
    """Of the photos that are answered, with its interval over people."""
    errors: tuple[float, float, float]
    """Of the answers that are wrong; nan where none is given."""


def sureness(shown: Sequence[Predicted], fitted: Calibration | None, rule: Decision | None = None) -> Section:
    """The section on probabilities.

    Args:
        fitted: of the bundle in best/; None: its probabilities are as its models have them.
        rule: of the bundle; None: the likeliest class is named.
    """
    text = (
        "Are the probabilities true? A point on the dashed line is right as often as it says; below it the model is "
        "too sure. The error is the mean distance from the line; with few photos it is too high, because it cannot be "
        "negative."
    )
    after = [tempered(one, fitted) for one in shown]
    lines = [_temperature(fitted), _decision(rule)]
    for before, one in zip(shown, after, strict=True):
        lines.append(_reliability_line(before, one, is_calibrated=fitted is not None))
    plots = [group_plots.reliability(calibration(one), one.name) for one in shown]
    if fitted is not None:
        plots = [group_plots.reliability(calibration(one), f"{one.name}, before") for one in shown]
        plots += [group_plots.reliability(calibration(one), f"{one.name}, after") for one in after]
    return section("How sure it may be", text, listed(lines) + grid(plots) + _abstention(after))


def tempered(one: Predicted, fitted: Calibration | None) -> Predicted:
    """The predictions as a bundle with this calibration gives them."""
    if fitted is None:
        return one
    probabilities = calibrated(np.exp(one.log_probabilities), fitted.temperature)
    return replace(one, log_probabilities=np.log(np.maximum(probabilities, np.finfo(np.float64).tiny)))


def abstaining(one: Predicted, limits: Sequence[float] = LIMITS) -> list[Abstaining]:
    """The share of photos that is answered under each limit, and the share of wrong answers among these."""
    answered = (one.confidence[:, None] >= np.array(limits)).astype(float)  # (n, l)
    sums = one.resamples.sums
    given, wrong = sums(answered), sums(answered * (one.truth != one.predicted)[:, None])
    shares = one.resamples.intervals(ratio(given, sums(np.ones_like(answered))))

    def error_share(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        answers = weights @ given  # (r, l)
        share: NDArray[np.float64] = np.where(answers > 0, (weights @ wrong) / np.maximum(answers, 1), np.nan)
        return share

    errors = one.resamples.intervals(error_share)
    return [Abstaining(limit, _at(shares, at), _at(errors, at)) for at, limit in enumerate(limits)]


def _at(found: Intervals, at: int) -> tuple[float, float, float]:
    return float(found.value[at]), float(found.low[at]), float(found.high[at])


def error_curve(one: Predicted) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Answered share (n,) from 1/n to 1, the surest photos first, and the share of wrong ones among these (n,)."""
    order = np.argsort(-one.confidence, kind="stable")
    n = np.arange(1, len(order) + 1)
    return n / len(order), np.cumsum((one.truth != one.predicted)[order]) / n


def _temperature(fitted: Calibration | None) -> str:
    if fitted is None:
        return "The bundle is not calibrated: its probabilities are as its models have them."
    errors = f"from {fitted.error_before:.3f} to {fitted.error_after:.3f}"
    losses = f"from {fitted.loss_before:.3f} to {fitted.loss_after:.3f}"
    return (
        f"The bundle's temperature is {fitted.temperature:.2f}, fitted on {fitted.fitted_on} "
        f"({fitted.photos:,} photos). There it took the expected calibration error {errors}, and the mean of -log p "
        f"{losses}. It changes no class."
    )


def _decision(rule: Decision | None) -> str:
    if rule is None:
        return "The class that is named is the likeliest one."
    return (
        "The class that is named is argmax(log p - tau log prior), so that rare classes are not named too seldom; p "
        f"are the models' own probabilities. tau is {rule.tau:.2f}, fitted on {rule.fitted_on} ({rule.photos:,} "
        f"photos), where macro F1 rose from {rule.f1_before:.3f} to {rule.f1_after:.3f} for people on whom it was not "
        "fitted."
    )


def _reliability_line(before: Predicted, after: Predicted, *, is_calibrated: bool) -> str:
    first, last = calibration(before), calibration(after)
    if not is_calibrated:
        return f"{before.name}: expected calibration error {score_text(first.error, FEW_PEOPLE)}; {_leaning(first)}."
    return (
        f"{before.name}: expected calibration error {score_text(first.error, FEW_PEOPLE)} before the temperature "
        f"({_leaning(first)}), {score_text(last.error, FEW_PEOPLE)} after it ({_leaning(last)})."
    )


def _leaning(found: Reliability) -> str:
    share = found.photos / found.photos.sum()
    gap = float((share * (found.confidence - found.right.value)).sum())
    return f"on average the model is {'too sure' if gap > 0 else 'not sure enough'} by {abs(gap):.3f}"


def _abstention(shown: Sequence[Predicted]) -> Html:
    """How often an answer is wrong, by how many photos are answered."""
    text = (
        'With --abstain P, photos whose class has a probability below P are answered "not sure". The curve '
        "says how often the others are wrong: the surest photos come first, from the left."
    )
    curves = {one.name: error_curve(one) for one in shown}
    tables = Html("").join(
        folded(
            f"{one.name}: answered and wrong, as a table",
            table(
                ["--abstain", "answered, %", "wrong among these, %"],
                [
                    [f"{each.limit:g}", percent_text(each.share, FEW_PEOPLE), _or_dash(each.errors)]
                    for each in abstaining(one)
                ],
            ),
            unfolded=number == 0,
        )
        for number, one in enumerate(shown)
    )
    return part("Where it may say that it is not sure", text, group_plots.error_curves(curves) + tables)


def _or_dash(errors: tuple[float, float, float]) -> str:
    return "–" if np.isnan(errors[0]) else percent_text(errors, FEW_PEOPLE)
