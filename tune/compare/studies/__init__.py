"""Studies: declared lists of comparisons. Pure declarations: importing one needs neither torch nor Ray.

A study's module defines `STUDY = Study(...)`. So does the Python file of a user's study, whose path `get` takes.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from maskcls.errors import CallError
from maskcls.text import meant
from search_spaces import SpaceError, defined_in
from tune.compare import treatments

NAMES: tuple[str, ...] = ("contest", "decision", "gaps", "start")
"""The studies that come with the package, each a module of this one."""


@dataclass(frozen=True)
class Variant:
    """One way to train or to score, which is compared with its comparison's base.

    Args:
        name: a few words, for tables.
        overrides: values of the recipe in place of the base's; `members.age3.lr_head` is a key as well.
        treatment: what no recipe can express, by its name in `tune.compare.treatments`; "" is the comparison's.
    """

    name: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    treatment: str = ""


@dataclass(frozen=True)
class Comparison:
    """Variants that are compared with one base.

    Args:
        name: a word or two, for tables; different for each comparison of a study.
        claim: what is claimed about these variants, in a sentence; "" where nothing is.
        source: who claims it, and with which figures.
        base: values of the recipe in place of the preset's.
        variants: at least one, with different names.
        treatment: of the base, by its name in `tune.compare.treatments`.
    """

    name: str
    claim: str = ""
    source: str = ""
    base: Mapping[str, Any] = field(default_factory=dict)
    variants: Sequence[Variant] = ()
    treatment: str = ""


@dataclass(frozen=True)
class Study:
    """A question and the comparisons that answer it. They share photos, splits, seeds, and the fits that are equal."""

    name: str
    question: str
    comparisons: Sequence[Comparison]


def names() -> list[str]:
    """The names of the studies that come with the package."""
    return list(NAMES)


def get(name_or_file: str) -> Study:
    """The study of that name, or the STUDY that a Python file defines.

    Raises CallError where there is no valid study.
    """
    if name_or_file in NAMES:
        study = importlib.import_module(f"{__name__}.{name_or_file}").STUDY
    elif name_or_file.endswith(".py") or "/" in name_or_file:
        study = _from_file(Path(name_or_file))
    else:
        listed = f"Studies: {', '.join(NAMES) or 'none comes with the package'}; or a Python file that defines STUDY."
        said = (f"There is no study {name_or_file!r}.", meant(name_or_file, NAMES), listed)
        raise CallError(" ".join(filter(None, said)))
    return checked(study)


def checked(study: Study) -> Study:
    """The study itself. Raises CallError where a name is used twice, or where nothing is compared."""
    if not study.comparisons:
        raise CallError(f"Study {study.name} has no comparison. Expected at least one.")
    _each_once([comparison.name for comparison in study.comparisons], f"Study {study.name}", "comparison")
    for comparison in study.comparisons:
        where = f"Comparison {comparison.name} of study {study.name}"
        if not comparison.variants:
            raise CallError(f"{where} has no variants. Expected at least one.")
        _each_once([variant.name for variant in comparison.variants], where, "variant")
    return study


def _each_once(given: list[str], where: str, what: str) -> None:
    twice = sorted({name for name in given if given.count(name) > 1})
    if twice or not all(given):
        raise CallError(
            f"{where}: every {what} needs its own name, but {twice[0] if twice else 'the empty one'!r} is given."
        )


def _from_file(file: Path) -> Study:
    # What files written before these modules moved import; runs keep copies of such files.
    sys.modules.setdefault("tune.studies", sys.modules[__name__])
    sys.modules.setdefault("tune.treatments", treatments)
    try:
        return defined_in(file, "study", "STUDY", Study, "tune.compare.studies")
    except SpaceError as error:
        raise CallError(str(error)) from error
