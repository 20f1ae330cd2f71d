"""What all commands share: their options, each named and explained once, and errors as one message and an exit status.

Imports nothing heavy: every command imports it before it knows what is asked.
"""

from __future__ import annotations

import errno
import functools
import io
import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from maskcls.command_line import environment
from maskcls.command_line.config_file import with_config_file
from maskcls.command_line.signals import SIGNAL_STATUS, signal_of, terminable
from maskcls.errors import MaskclsError
from maskcls.files import FULL, may_access, unreadable
from maskcls.stores.photo_limits import MAX_ASPECT, MAX_MEGAPIXELS, Limits
from maskcls.text import printable, shown

_ENDED_BY = {signal.SIGINT: "Interrupted.", signal.SIGTERM: "Terminated.", signal.SIGHUP: "The terminal was closed."}


def _set_limit(variable: str) -> Callable[[float | None], float | None]:
    """Return an option's callback that sets an environment variable, which processes started later have as well."""

    def keep(value: float | None) -> float | None:
        if value is not None:
            os.environ[variable] = f"{value:g}"
        return value

    return keep


MaxMegapixels = Annotated[
    float | None,
    typer.Option(
        "--max-megapixels",
        min=0,
        help="Refuse photos with more pixels, by their header, 10**6 px.",
        show_default=f"${MAX_MEGAPIXELS} or {Limits.megapixels:g}",
        callback=_set_limit(MAX_MEGAPIXELS),
    ),
]
MaxAspect = Annotated[
    float | None,
    typer.Option(
        "--max-aspect",
        min=1,
        help="Refuse photos whose long edge is more times as long as the short one.",
        show_default=f"${MAX_ASPECT} or {Limits.aspect:g}",
        callback=_set_limit(MAX_ASPECT),
    ),
]
DATA_HELP = "Table of photos (photos.csv, or .parquet), a folder with one, or a folder in the contest's layout"
Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        help=f"{DATA_HELP}; without it, drawn demo faces.",
        show_default="demo faces",
    ),
]
PeopleFrom = Annotated[
    str | None,
    typer.Option(
        "--people-from",
        help="Where --data names no person: folder (each folder of photos is one person), or none (each photo is of "
        "another person).",
        show_default="asked for where it is needed",
    ),
]
Extra = Annotated[
    Path | None,
    typer.Option(
        "--extra",
        help="Photos for training alone, as --data; their people must not be among those of --data.",
        show_default="none",
    ),
]
Preset = Annotated[
    str, typer.Option("--preset", help="Named recipe to start from: faces-2026, fine-tune or contest-2021.")
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="key=value: fix a recipe's value; may be repeated.", show_default="none"),
]
Weights = Annotated[
    str | None,
    typer.Option(
        "--weights",
        help="hub, none, or a folder of files named <model>.safetensors or <model>.<tag>.pth.",
        show_default="hub on real data, none on demo faces",
    ),
]
Scale = Annotated[str, typer.Option("--scale", help="auto, cpu or gpu: auto is cpu on a machine without a GPU.")]
ImageSize = Annotated[
    int | None,
    typer.Option("--image-size", help="Edge of the square that the model sees, px.", show_default="the preset's"),
]
Epochs = Annotated[int | None, typer.Option("--epochs", help="Epochs of a fit.", show_default="the preset's")]
Seed = Annotated[
    int | None, typer.Option("--seed", min=0, help="Seed of a fit: initialisation, order, dropout.", show_default="0")
]
SplitSeed = Annotated[
    int, typer.Option("--split-seed", min=0, help="Seed of the split of the people; belongs to the data.")
]
SplitFile = Annotated[
    Path | None,
    typer.Option(
        "--split",
        help="JSON file with your own lists of people: train, validation, holdout.",
        show_default="drawn from --split-seed",
    ),
]
Corrections = Annotated[
    str,
    typer.Option(
        "--corrections", help="Label corrections: published (those of the contest's teams), none, or a CSV file."
    ),
]
SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="Leave out photos and people with problems instead of refusing.")
]
Tta = Annotated[
    bool,
    typer.Option(
        "--tta", help="Test-time augmentation: the mean over a photo and its mirror image, in twice the time."
    ),
]
Abstain = Annotated[
    float,
    typer.Option(
        "--abstain",
        min=0,
        max=1,
        help='Answer "not sure" where the class that would be named has a lower probability.',
    ),
]
Engine = Annotated[
    str,
    typer.Option(
        "--engine",
        help="torch; onnx, the bundle's graph (maskcls export --onnx), which needs no torch; int8, that in 8 bits.",
    ),
]
Cache = Annotated[
    Path | None,
    typer.Option(
        "--cache",
        help="Folder for decoded photos and frozen features.",
        show_default="$MASKCLS_CACHE or ~/.cache/maskcls",
    ),
]
SharedCache = Annotated[
    bool,
    typer.Option("--shared-cache", help="Use a cache that others may write; without it, such a folder is refused."),
]
FeatureStoreGb = Annotated[
    float,
    typer.Option(
        "--feature-store-gb",
        min=0,
        help="Bound on what frozen stages gave, kept under --cache, GB; 0: nothing is kept.",
    ),
]
PixelStoreGb = Annotated[
    float, typer.Option("--pixel-store-gb", min=0, help="Bound on the decoded photos kept under --cache, GB.")
]


class _App(typer.Typer):
    """A typer app of which every command has --config and --save-config."""

    def command(self, *arguments: Any, **settings: Any) -> Callable[[Any], Any]:
        """Return a decorator that makes a function a command, and returns the function as it was."""
        register = super().command(*arguments, **settings)

        def add(main: Callable[..., Any]) -> Callable[..., Any]:
            register(with_config_file(main))
            return main

        return add


class CommandGroup(TyperGroup):
    """A command that has subcommands."""

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]  # typer has a name of its own for the type
        """Run the subcommand; Ctrl-C, SIGTERM and SIGHUP end it with a message."""
        return _interruptible(super().invoke)(ctx)


def new_app(*, group: type[TyperGroup] = CommandGroup, add_completion: bool = False) -> typer.Typer:
    """Return a typer app with the settings of all commands, for a command that has subcommands."""
    return _App(cls=group, add_completion=add_completion, pretty_exceptions_enable=False, rich_markup_mode=None)


def app_of(main: Callable[..., Any] | typer.Typer) -> typer.Typer:
    """Return the app of a command's function; an app is returned as it is."""
    if isinstance(main, typer.Typer):
        return main
    app = new_app()
    app.command()(_interruptible(main))
    return app


def run(main: Callable[..., Any] | typer.Typer) -> None:
    """Run a command's function or app as a command line.

    Typer's own usage errors exit with 2, a MaskclsError with its `exit_status`, Ctrl-C with 130, SIGTERM with 143,
    SIGHUP with 129.
    """
    app = app_of(main)
    environment.mend()
    _log_to_stderr()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name that is not UTF-8 must not end a message
    try:
        app(standalone_mode=True)
    except MaskclsError as error:
        fail(str(error), error.exit_status)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        message = disk_message(error)
        if not message:
            raise
        fail(message, 1)


def disk_message(error: OSError) -> str:
    """Return a message for a file that could not be written or read, as on a full disk; empty for other errors."""
    name = error.filename or "A file"
    if error.errno in (*FULL, errno.EFBIG):
        return (
            f"{shown(name)} could not be written: {error.strerror}. Free some space or name another folder, then go on."
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        if error.errno != errno.EROFS and error.filename and _is_unreadable(os.fsdecode(error.filename)):
            return unreadable(error.filename, error)
        return (
            f"{shown(name)} could not be written: {error.strerror}. Give yourself the right to write there, or name "
            "another folder, then go on."
        )
    if error.filename and error.errno in (errno.EISDIR, errno.ENOTDIR, errno.ELOOP):
        return f"{shown(name)} cannot be read or written: {error.strerror}. Move away what is in its place, then go on."
    if error.filename and error.errno == errno.ENOENT and _is_the_kernels(Path(os.fsdecode(error.filename)).parent):
        return f"{shown(name)} could not be written: no file can be made there. Name another folder."
    return unreadable(name, error) if error.errno == errno.ENAMETOOLONG else ""


def _is_the_kernels(folder: Path) -> bool:
    """Whether the folder is one of /proc or /sys, where a new file is answered with "No such file or directory"."""
    return folder.is_dir() and os.statvfs(folder).f_blocks == 0


def _is_unreadable(name: str) -> bool:
    """Whether the file or folder is there, and this user may not read it, or not look into its folder."""
    folders = [folder for folder in Path(name).parents if os.path.isdir(folder)]  # noqa: PTH112 - Path's raises here
    if not all(may_access(folder, os.X_OK) for folder in folders):
        return True
    return may_access(name, os.F_OK) and not may_access(name, os.R_OK)


def _interruptible(main: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap the function so that Ctrl-C, SIGTERM and SIGHUP end it with a message; typer and Python would give none."""

    @functools.wraps(main)
    def guarded(*arguments: Any, **options: Any) -> Any:
        try:
            with terminable():
                return main(*arguments, **options)
        except KeyboardInterrupt as interrupt:
            number = signal_of(interrupt)
            _end(_ENDED_BY[number], SIGNAL_STATUS + number)  # no "Error: ": whoever ended it wanted that

    return guarded


def _log_to_stderr() -> None:
    """Send what the package logs, from INFO on, to stderr as plain lines."""
    logger = logging.getLogger("maskcls")
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(_Printable())
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False


class _Printable(logging.Formatter):
    """Plain lines, in which names of others' making cannot act on the terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def fail(message: str, exit_status: int) -> NoReturn:
    """Print the message to stderr as an error and exit."""
    _end(f"Error: {message}", exit_status)


def _end(message: str, exit_status: int) -> NoReturn:
    sys.stdout.flush()
    print(message, file=sys.stderr)
    sys.exit(exit_status)
