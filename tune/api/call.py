"""run_search does in Python what the command `python -m tune.search` does: the same options, the same run folder."""

from __future__ import annotations

import contextlib
import inspect
import json
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack, overload

from maskcls.cli import disk_message
from maskcls.command_line.signals import SIGNAL_STATUS, interruption, terminable
from maskcls.errors import CallError, RunError
from maskcls.files import refuse_address, relative
from search_spaces import Setting, Space, SpaceError, Suggest
from search_spaces.as_file import name_or_file
from tune.api.run import Run
from tune.runs import output

if TYPE_CHECKING:
    from tune.search.options import SearchOptions
    from tune.search.plan import Logger, Sampler, Scheduler

AnyPath = str | os.PathLike[str]
_PATHS = ("weights", "split", "corrections", "learn_from", "runs", "resume", "new_run_from", "cache")


class SearchCall(TypedDict, total=False):
    """The options of `run_search`: those of the command, by their names; `python -m tune.search --help` explains each.

    None stands for "not stated", as if the option were left out.
    """

    space: AnyPath | Space | Callable[[Suggest, Setting], dict[str, Any]] | None
    data: AnyPath | None
    preset: str | None
    set: Mapping[str, object] | Iterable[str] | None
    epochs: int | None
    image_size: int | None
    weights: AnyPath | None
    scale: Literal["auto", "cpu", "gpu"] | None
    seed: int | None
    split_seed: int | None
    split: AnyPath | None
    corrections: AnyPath | None
    skip_bad: bool | None
    people_from: Literal["folder", "none"] | None
    extra: AnyPath | None
    max_megapixels: float | None
    max_aspect: float | None
    trials: int | None
    time_budget: str | None
    sampler: Sampler | None
    scheduler: Scheduler | None
    learn_from: AnyPath | Iterable[AnyPath] | None
    finalists: int | None
    repeats: int | None
    repeat_by: Literal["folds", "seeds"] | None
    single: bool | None
    retrain_on_all: bool | None
    keep: int | None
    log: Logger | Iterable[Logger] | None
    study_storage: str | None
    parallel: int | None
    gpus_per_trial: float | Literal["auto"] | None
    cpus_per_trial: int | None
    runs: AnyPath | None
    name: str | None
    resume: AnyPath | None
    new_run_from: AnyPath | None
    begin_or_resume: bool | None
    storage: AnyPath | None
    ship_data: bool | None
    max_failures: int | None
    address: str | None
    cache: AnyPath | None
    shared_cache: bool | None
    pixel_store_gb: float | None
    feature_store_gb: float | None
    quiet: bool | None
    as_json: bool | None


@overload
def run_search(*, plan: Literal[True], **options: Unpack[SearchCall]) -> None:
    """Print the plan."""


@overload
def run_search(*, plan: Literal[False] = False, **options: Unpack[SearchCall]) -> Run:
    """Search."""


def run_search(*, plan: bool = False, **options: Unpack[SearchCall]) -> Run | None:
    """Search for the best classifier of a folder of faces, as `python -m tune.search` does, and wait for its end.

        run = run_search(data="faces", space="freezing", trials=12, epochs=6)

    It takes the options of the command by their names (`python -m tune.search --help`), makes the same run folder, and
    prints the same lines. Beside that

    - `space` may be a function (trial, setting) that returns overrides of a recipe, or a `search_spaces.Space`. The run
      keeps its source where that draws the same; where not, a resume needs the same object again.
    - `set` may be a dict, as in `set={"head_width": 64}`, and `learn_from` a single run.

    Ray is started here and stopped at the end, unless `address` names a cluster, or this process is connected to Ray
    already: then the search runs there, and the connection stays.

    Ctrl-C (in a notebook: interrupting the kernel), SIGTERM or SIGHUP ends the search cleanly: what is done is kept,
    best/ and the report are written, Ray is stopped, and KeyboardInterrupt is raised, with a text that says how to go
    on. A second one does not wait for best/ and the report. A search in another thread than the main one sees none.

    Args:
        plan: print what would be done, and do nothing.

    Returns the run; with `plan` None.

    Raises:
        CallError: an option is wrong or unknown; nothing was begun.
        DataError: the data cannot be used.
        RunError: no trial could be made into a bundle, the disk is full, or another driver holds the run.
        KeyboardInterrupt: as above; after SIGTERM its subclass `maskcls.errors.Terminated`, after SIGHUP `HungUp`.
    """
    found: list[Run] = []
    with tempfile.TemporaryDirectory() as folder, _shown(as_json=bool(options.get("as_json"))), terminable():
        from tune.search import session

        words = ("run_search", *(f"{name}={_word(value)}" for name, value in options.items() if value is not None))
        caller = session.Caller(is_guest=True, found=lambda run: found.append(Run(run.path)), words=words)
        try:
            checked = _checked({"plan": plan, **options}, Path(folder))
            with output.directed(quiet=checked.quiet, as_json=checked.as_json):
                status = session.run(checked, caller)
        except KeyboardInterrupt as interrupt:
            raise type(interrupt)(_interrupted(found)) from None
        except OSError as error:
            message = disk_message(error)
            if not message:
                raise
            raise RunError(message) from error
    if plan:
        return None
    if status > SIGNAL_STATUS:
        raise interruption(status - SIGNAL_STATUS)(_interrupted(found))
    if status:
        raise RunError(
            f"No trial of run {found[0].name} could be made into a bundle; the lines above say why. Its trials: "
            f"{found[0]!r}.leaderboard."
        )
    return found[0]


# For help() and for editors that ask the running process, as Jupyter's Tab does; type checkers read SearchCall.
run_search.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
    [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind.__forward_arg__)
        for name, kind in SearchCall.__annotations__.items()
    ]
    + [inspect.Parameter("plan", inspect.Parameter.KEYWORD_ONLY, default=False, annotation="bool")],
    return_annotation="Run | None",
)


def _checked(stated: Mapping[str, object], folder: Path) -> SearchOptions:
    """The command's options. Raises CallError for a wrong or an unknown one.

    Args:
        folder: gets the file of a space that is an object.
    """
    from tune.search.options import SearchOptions

    known = SearchCall.__annotations__
    values = {name: value for name, value in stated.items() if value is not None or name not in known}
    try:
        if "space" in values:
            values["space"] = name_or_file(values["space"], folder)  # type: ignore[arg-type]
    except SpaceError as error:
        raise CallError(str(error)) from None
    settings = values.get("set")
    if isinstance(settings, Mapping):
        values["set"] = tuple(f"{key}={_text(key, value)}" for key, value in settings.items())
    for name in ("set", "learn_from", "log"):
        value = values.get(name)
        if isinstance(value, str | os.PathLike):
            values[name] = (value,)
    for name, value in values.items():
        if isinstance(value, os.PathLike):
            values[name] = os.fspath(value)
        elif isinstance(value, Iterable) and not isinstance(value, str):
            values[name] = tuple(os.fspath(one) if isinstance(one, os.PathLike) else one for one in value)
    _refuse_addresses(values)
    return SearchOptions.model_validate(values)


def _refuse_addresses(values: Mapping[str, object]) -> None:
    """Raise CallError for an address, as in s3://bucket/runs, in place of a path."""
    for name in _PATHS:
        given = values.get(name)
        for value in given if isinstance(given, tuple) else (given,):
            refuse_address(value, f"--{name.replace('_', '-')}")


def _text(key: str, value: object) -> str:
    """A recipe's value as `--set` takes it. Raises CallError for one that cannot be written so."""
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, default=lambda one: one.item())  # numpy's numbers
    except (AttributeError, TypeError, ValueError):
        raise CallError(f"set expects numbers, strings, booleans or lists of them, but {key} is {value!r}.") from None


def _word(value: object) -> str:
    """An option's value as the run's record keeps it."""
    if isinstance(value, Space) or callable(value):
        return str(getattr(value, "name", getattr(value, "__name__", type(value).__name__)))
    return repr(os.fspath(value)) if isinstance(value, os.PathLike) else repr(value)


def _interrupted(found: list[Run]) -> str:
    if not found:
        return "Interrupted before the search began; no run was left."
    path = relative(found[0].path)
    return f"Interrupted. What is done is kept: open_run({path!r}) shows it, run_search(resume={path!r}) goes on."


@contextlib.contextmanager
def _shown(*, as_json: bool) -> Iterator[None]:
    """Show what the package logs, unless the program has its own handlers; in a notebook print all as plain lines.

    Args:
        as_json: whether stdout is for events alone.
    """
    with contextlib.ExitStack() as stack:
        if type(sys.stderr).__module__.startswith("ipykernel"):
            if not as_json:
                # A notebook shows stderr on red, apart from stdout, which would tear the lines out of their order.
                stack.enter_context(contextlib.redirect_stderr(sys.stdout))
            warnings.filterwarnings("ignore", message="IProgress not found")  # of tqdm, whose bars are not shown
        logger = logging.getLogger("maskcls")
        if not logger.hasHandlers():
            handler, level = logging.StreamHandler(), logger.level
            logger.addHandler(handler)
            logger.setLevel(logging.INFO)
            stack.callback(logger.setLevel, level)
            stack.callback(logger.removeHandler, handler)
        yield
