"""AuditOptions: what `tune.audit` is asked, typed and checked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Self

from pydantic import Field, field_validator, model_validator

from maskcls.errors import CallError
from maskcls.files import check_writable_name, expanded
from tune.runs.options import SharedOptions

DEFAULT_FOLDS = 5


class AuditOptions(SharedOptions):
    """The options of `tune.audit`, by their names."""

    IDENTITY: ClassVar[tuple[str, ...]] = ()
    CALL: ClassVar[tuple[str, ...]] = ()
    WORK: ClassVar[str] = "an audit"
    RECIPE_OPTIONS: ClassVar[Mapping[str, str]] = {"seed": "--seed", "weights": "--weights"}
    BESIDE_RUN: ClassVar[tuple[str, ...]] = (
        "run",
        "runs",
        "out",
        "limit",
        "cache",
        "shared_cache",
        "pixel_store_gb",
        "feature_store_gb",
    )
    """Options that a call with --run may state; all others come from the run."""

    run: str | None = Field(None, description="the search whose finalists' repeats are used, by path or by name")
    out: Path | None = Field(None, description="folder for corrections.csv and audit.html; None: `audit` in the run")
    limit: int = Field(200, ge=1, description="findings on the page")
    folds: int = Field(DEFAULT_FOLDS, ge=2, description="parts of the people")
    seed: int | None = Field(None, ge=0, description="of the fits")

    @field_validator("out")
    @classmethod
    def _free(cls, out: Path | None) -> Path | None:
        return out and check_writable(expanded(out).absolute())

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.run is None) == (self.data is None):
            raise CallError(
                "What to audit must be given once: --run RUN, a search with finalists, or --data DIR, a folder of "
                "photos."
            )
        if self.data is not None and self.out is None:
            raise CallError("--out is missing: the folder for corrections.csv, audit.html and the folds' fits.")
        wrong = sorted(self.model_fields_set - set(self.BESIDE_RUN))
        if self.run is not None and wrong:
            raise CallError(
                f"--run takes photos and predictions from the search, so leave out {', '.join(map(_option, wrong))}. "
                f"Beside it there may be {', '.join(map(_option, self.BESIDE_RUN[1:]))}."
            )
        return self


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def check_writable(out: Path) -> Path:
    """Return the folder. Raises CallError if it is a file, holds something else than an audit, or can't be made."""
    check_writable_name(out, "--out")
    if out.exists() and not out.is_dir():
        raise CallError(f"--out {out} is a file. Name a folder.")
    if out.exists() and any(out.iterdir()) and not any((out / name).exists() for name in ("audit.html", "fits")):
        raise CallError(f"--out {out} is not empty and holds no audit (it has no audit.html). Name a new folder.")
    return out
