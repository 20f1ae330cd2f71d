"""Parameters of trials that the study has without any, so that plots of all trials' parameters have something to show.

A trial whose recipe is not a point of the space is recorded without parameters, because its score would teach the
sampler something false: often the preset's, and trials of a narrower space. Optuna's parallel coordinates show only
what all trials have. On a page, such a trial has the values that its own recipe has of the space's parameters.
"""

from __future__ import annotations

from functools import cached_property

from optuna.trial import FrozenTrial

from maskcls.errors import MaskclsError
from maskcls.recipe import Recipe
from maskcls.training.equivalence import differing_keys
from search_spaces import SpaceError
from tune.runs.cluster import here
from tune.runs.folder import SearchRun
from tune.runs.study import RECIPE
from tune.search.options import SPACE_COPY, SearchOptions, resolve
from tune.search.plan import SearchPlan
from tune.search.warm_start import OutsideError, SpacePoint, place


class KnownParameters:
    """The parameters of a run's trials, by their recipes."""

    def __init__(self, run: SearchRun) -> None:
        self._run = run
        self._points: dict[int, tuple[SpacePoint | None, tuple[str, ...]]] = {}

    def of(self, trial: FrozenTrial) -> tuple[SpacePoint | None, tuple[str, ...]]:
        """Return the trial's point, and the recipe's keys in which the space would make another recipe of it.

        The point is None if the trial has parameters of its own or no recipe yet, or if a value lies outside the space.
        """
        if trial.params or RECIPE not in trial.user_attrs:
            return None, ()
        if trial.number not in self._points:
            self._points[trial.number] = self._placed(Recipe.checked(trial.user_attrs[RECIPE]))
        return self._points[trial.number]

    def _placed(self, recipe: Recipe) -> tuple[SpacePoint | None, tuple[str, ...]]:
        plan = self._plan
        if plan is None:
            return None, ()
        try:
            point = place(plan.space, plan.setting, plan.values_of(recipe))
            return point, differing_keys(Recipe.model_validate(plan.recipe(point.overrides)), recipe)
        except (OutsideError, MaskclsError):
            return None, ()

    @cached_property
    def _plan(self) -> SearchPlan | None:
        """The run's plan; None if its space is not here any more, or refuses what it was asked."""
        record, own_space = self._run.record(), self._run.path / SPACE_COPY
        try:
            return resolve(
                SearchOptions.recorded(record),
                here(),
                own_space if own_space.exists() else None,
                record.has_weights,
                record.base_recipe,
                fixes_views=record.fixes_views,
                ranking=record.ranking,
            ).plan
        except (MaskclsError, SpaceError):
            return None
