"""The page and its API under Ray Serve: several replicas, over machines and shares of GPUs.

`deploy/serve.yaml` names `build`, and docs/serving.md explains both. Each replica runs the whole application of
`maskcls serve`, with its batches and its limits; Ray Serve starts replicas, watches them and spreads the requests.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from ray import serve

from maskcls.errors import CallError
from maskcls.serving.engine import Name
from maskcls.serving.predictor import Predictor
from maskcls.serving.web.access import Access, check_protected
from maskcls.serving.web.app import build_app
from maskcls.serving.web.guard import Guard
from maskcls.serving.web.limits import Limits
from maskcls.stores.photo_limits import StatedLimits

AUTH = "MASKCLS_AUTH"
"""Environment variable with USER:PASSWORD: not in the file, which Ray's dashboard shows."""
OF_THE_PROXY = ("header_s", "connections")
"""Limits of `maskcls serve` that Ray Serve does not keep: its proxy accepts the connections and reads the headers."""

STARTS = 3
"""How often replicas may fail to start until Ray gives a new bundle up."""


class ServingOptions(BaseModel):
    """The `args` of an application in the file; each is the option of `maskcls serve` with the same meaning.

    Raises:
        CallError: there is no such option, or its value is wrong.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    bundle: Path = Field(description="Folder of an exported classifier, which every machine must see.")
    device: str = Field("auto", description="auto: a GPU if the replicas have a share of one.")
    engine: Name = Name.TORCH
    abstain: float = Field(0.0, ge=0, le=1)
    host: str = Field("127.0.0.1", description="Address on which Ray's proxy listens, as in http_options.")
    allow_host: tuple[str, ...] = ()
    no_auth: bool = False
    face_check: bool = True
    limits: Limits = Limits()

    @field_validator("bundle")
    @classmethod
    def _found_anywhere(cls, bundle: Path) -> Path:
        if not bundle.is_absolute():
            raise CallError(f"args: bundle: {bundle} given, but an absolute path expected: replicas start elsewhere.")
        return bundle

    @field_validator("limits", mode="before")
    @classmethod
    def _kept_here(cls, given: Any) -> Limits:
        known = [each.name for each in fields(Limits) if each.name not in OF_THE_PROXY]
        if not isinstance(given, dict) or not given.keys() <= set(known):
            raise CallError(f"limits: {given!r} given, but of these numbers expected: {', '.join(known)}.")
        return Limits(**given)


def read_options(args: dict[str, Any]) -> ServingOptions:
    """Check the `args` of the file. Raises CallError with the first thing that is wrong."""
    try:
        return ServingOptions.model_validate(args)
    except ValidationError as error:
        problem = error.errors()[0]
        name = ".".join(map(str, problem["loc"]))
        known = ", ".join(ServingOptions.model_fields)
        raise CallError(f"args: {name}: {problem['msg']}, but got {problem['input']!r}. Known: {known}.") from None


def build(args: dict[str, Any]) -> serve.Application:
    """Return the application that the file's `args` describe, for Ray Serve. Raises CallError."""
    options = read_options(args)
    _access(options)  # what is wrong with it is said before any replica starts
    replica: Any = serve.ingress(_builder(options))(Replica)
    return serve.deployment(replica, name="maskcls", max_constructor_retry_count=STARTS).bind()


class Replica:
    """One process that answers; `app` comes from Ray, which builds the application in it."""

    app: Guard

    async def check_health(self) -> None:
        """Raise RunError where the classifier fails or gives no finite probabilities: Ray then replaces the replica."""
        await asyncio.to_thread(self.app.check_health)


def _builder(options: ServingOptions) -> Callable[[], Guard]:
    def build_in_replica() -> Guard:
        StatedLimits(options.limits.megapixels, options.limits.aspect).apply()
        predictor = Predictor(options.bundle, options.device, abstain=options.abstain, engine=options.engine)
        return build_app(predictor, options.limits, _access(options), face_check=options.face_check)

    return build_in_replica


def _access(options: ServingOptions) -> Access:
    auth = os.environ.get(AUTH) or None
    check_protected(options.host, auth, no_auth=options.no_auth)
    return Access(options.host, options.allow_host, auth)
