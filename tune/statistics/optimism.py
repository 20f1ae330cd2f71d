"""How much too good the best of several validation scores is expected to be, while no other people have scored it.

A score is the recipe's true score plus the chance of who happens to validate. The best of many was helped by chance,
and the more so, the less the recipes really differ. With normal scores and noise, a score's expected error is the share
of the noise in the scores' variance times its distance from their mean (Efron, Tweedie's Formula and Selection Bias,
JASA 106, 2011). The noise is taken as that of a share of as many people as validate: F1 (1 - F1) / people. It is an
estimate before the winner is scored on the holdout, and its own error is not known.
"""

from __future__ import annotations

from dataclasses import dataclass

FEWEST = 4
"""Scores from which on their variance says something."""


@dataclass
class ScoreMoments:
    """The number, sums and maximum of scores, which are added one by one."""

    n: int = 0
    total: float = 0.0
    squares: float = 0.0
    best: float = 0.0

    def add(self, f1: float) -> None:
        """Add a score, 0 to 1."""
        self.n, self.total, self.squares, self.best = (
            self.n + 1,
            self.total + f1,
            self.squares + f1 * f1,
            max(self.best, f1),
        )

    def expected_optimism(self, people: int) -> float | None:
        """Return by how much the best score is expected to exceed its recipe's true score.

        Args:
            people: who validate.

        None for fewer than FEWEST scores, or without people.
        """
        if self.n < FEWEST or people < 1:
            return None
        mean = self.total / self.n
        variance = (self.squares - self.n * mean * mean) / (self.n - 1)
        noise = self.best * (1 - self.best) / people
        return (self.best - mean) * (1.0 if variance <= noise else noise / variance)
