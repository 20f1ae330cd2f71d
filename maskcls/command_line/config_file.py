"""--config and --save-config: a command's options in a TOML file, for every command alike.

    trials = 12                  # an option by its name; for time-budget also time_budget
    set = ["lr_head=0.01"]       # an option that may be repeated is a list
    skip-bad = true              # a flag; false is as if it were not given

    [compare]                    # only for tune.compare; a value here counts before one above
    seeds = 3

The command line wins over the file, also for an option that may be repeated: its list replaces the file's; and for a
flag, by --no-skip-bad.
"""

from __future__ import annotations

import copy
import functools
import inspect
import re
import tomllib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import tomli_w
import typer
from typer.models import OptionInfo

from maskcls.command_line.options import Option, module_of, options_of, stated
from maskcls.errors import CallError, MaskclsError
from maskcls.files import expanded, refuse_address, replacing
from maskcls.text import meant

COMMANDS = frozenset(
    (
        *("search", "compare", "audit", "ensemble", "export", "report", "reproduce", "dashboard", "status"),
        *("train", "predict", "evaluate", "check", "explore", "cache-list", "cache-prune", "demo", "serve"),
        *("runs-list", "runs-show", "runs-prune", "runs-repair"),
    )
)
"""Names that a table may have: it holds options of this command alone."""
_ONLY_ON_THE_COMMAND_LINE = ("config", "save-config")
_PATHS_OR_WORDS = ("weights", "corrections", "resume", "new-run-from", "learn-from")
"""Options that take a path or a word."""
_SECRET = frozenset(("auth",))
"""Parameters whose values are in no file that is written."""
_META = "maskcls.config_file"
_EXPECTED = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a string",
    Path: "the path of a file or folder as a string",
}
_EXAMPLES = {bool: True, int: 12, float: 0.5, str: "…", Path: "…"}


@dataclass
class _Call:
    """What a call says of files."""

    config: Path | None = None
    values: Mapping[str, Any] = field(default_factory=dict)
    """By the options' names, what the file says."""
    save: Path | None = None


def with_config_file(main: Callable[..., Any]) -> Callable[..., Any]:
    """Return a command's function with two more options, --config and --save-config."""
    options, command = options_of(main), _command(main)

    def read(context: typer.Context, file: Path | None) -> None:
        if file is not None:
            values = _read(file, command, options)
            context.default_map = {one.parameter: values[one.name] for one in options if one.name in values}
            _call(context).config, _call(context).values = file, values

    def save(context: typer.Context, file: Path | None) -> None:
        _call(context).save = file

    @functools.wraps(main)
    def configured(**arguments: Any) -> Any:
        context = arguments[context_name]
        call = _call(context)
        is_saved = call.save is not None and _save(call.save, _stated_values(context, options), module_of(main))
        own = {name: value for name, value in arguments.items() if name in parameters}
        try:
            _refuse_addresses(own, options)
            return main(**own)
        except MaskclsError as error:
            if error.exit_status != CallError.exit_status:  # something was begun, and the call was right
                raise
            if call.save is not None and is_saved:  # the corrected call is to be saved in its place
                call.save.unlink(missing_ok=True)
            if call.config is not None:
                error.args = (f"{error} {_origin(str(error), call.config, call.values)}",)
            raise

    parameters = inspect.signature(main, eval_str=True).parameters
    context_name = next((name for name, one in parameters.items() if one.annotation is typer.Context), "context")
    configured.__signature__ = _signature(parameters, options, context_name, read, save)  # type: ignore[attr-defined]
    return configured


def _refuse_addresses(values: Mapping[str, Any], options: Sequence[Option]) -> None:
    """Raise CallError for an address, as in s3://bucket/faces, in place of a path.

    A command with --storage takes one as --data and as --extra as well.
    """
    takes_address = ("data", "extra") if any(option.name == "storage" for option in options) else ()
    for option in options:
        if option.name in takes_address:
            continue
        if option.kind is Path or option.name in _PATHS_OR_WORDS:
            given = values.get(option.parameter)
            for value in given if isinstance(given, list | tuple) else [given]:
                refuse_address(value, f"--{option.name}")


def _signature(
    parameters: Mapping[str, inspect.Parameter],
    options: Sequence[Option],
    context_name: str,
    read: Callable[..., None],
    save: Callable[..., None],
) -> inspect.Signature:
    """The command's signature with the two options, and with the context that they need.

    Typer gives the two to their callbacks alone; --config comes first, for it gives the others their values.
    """
    config = typer.Option(
        "--config",
        metavar="FILE",
        help="TOML file of options by their names, as in trials = 12. What the command line states replaces the "
        "file's value, a repeated option's whole list too.",
        show_default="none",
        is_eager=True,
        expose_value=False,
        callback=read,
    )
    save_config = typer.Option(
        "--save-config",
        metavar="FILE",
        help="Write the options that this call states as a file for --config, and go on.",
        show_default="none",
        is_eager=True,
        expose_value=False,
        callback=save,
    )
    added: dict[str, Any] = {context_name: typer.Context} if context_name not in parameters else {}
    added |= {"config": Annotated[Path | None, config], "save_config": Annotated[Path | None, save_config]}
    keyword, nothing = inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.empty
    more = [
        inspect.Parameter(name, keyword, annotation=kind, default=nothing if name == context_name else None)
        for name, kind in added.items()
    ]
    names = {option.name for option in options}
    return inspect.Signature([*(_to_take_back(one, names) for one in parameters.values()), *more])


def _to_take_back(parameter: inspect.Parameter, names: Collection[str]) -> inspect.Parameter:
    """A flag with a second name, as --no-tta of --tta, by which the command line takes back what a file says.

    Args:
        names: of the command's options: --no-auth stays alone, for --auth is another one.
    """
    if get_origin(parameter.annotation) is not Annotated:
        return parameter
    kind, info = get_args(parameter.annotation)
    if kind is not bool or not isinstance(info, OptionInfo):
        return parameter
    name = str(info.default).removeprefix("--")
    opposite = name.removeprefix("no-") if name.startswith("no-") else f"no-{name}"
    if opposite in names:
        return parameter
    both = copy.copy(info)
    both.default, both.show_default = f"--{name}/--{opposite}", False
    return parameter.replace(annotation=Annotated[kind, both])


def _call(context: typer.Context) -> _Call:
    call = context.meta.setdefault(_META, _Call())
    assert isinstance(call, _Call)
    return call


def _command(main: Callable[..., Any]) -> str:
    """The command's name as a table has it: `search`, and of a command's part `cache-prune`."""
    name = module_of(main).rpartition(".")[2]
    return name if main.__name__ == "main" else f"{name}-{main.__name__.rstrip('_')}"


# Reading


def _read(file: Path, command: str, options: Sequence[Option]) -> dict[str, Any]:
    """The values in the file that are for this command, by the options' names. Raises CallError."""
    by_name = {one.name: one for one in options}
    content = _parsed(file)
    tables = {key: value for key, value in content.items() if key in COMMANDS | {command} and isinstance(value, dict)}
    values = _checked(
        {key: value for key, value in content.items() if key not in tables}, f"--config {file}", command, by_name
    )
    values |= _checked(tables.get(command, {}), f"--config {file}, table {command}", command, by_name)
    return {name: value for name, value in values.items() if value is not False}


def _parsed(file: Path) -> dict[str, Any]:
    try:
        text = file.read_text(encoding="utf-8-sig")
        return tomllib.loads(text)
    except FileNotFoundError:
        raise CallError(f"--config {file}: there is no such file. Expected a TOML file of options.") from None
    except OSError as error:
        raise CallError(f"--config {file} cannot be read: {error.strerror}. Expected a TOML file of options.") from None
    except UnicodeDecodeError as error:
        raise CallError(f"--config {file} is not UTF-8 text ({error}), which TOML is. Save it as such.") from None
    except RecursionError:
        raise CallError(f"--config {file} is not a file of options: it is nested too deeply.") from None
    except tomllib.TOMLDecodeError as error:
        said = str(error).replace("at end of document", f"at line {len(text.splitlines())}, the end of the file")
        raise CallError(f"--config {file} is not TOML: {said}.") from None


def _checked(content: Mapping[str, Any], where: str, command: str, options: Mapping[str, Option]) -> dict[str, Any]:
    """The values by the options' names, each of its option's kind. Raises CallError naming file, table and key."""
    values: dict[str, Any] = {}
    for key, value in content.items():
        name = key.replace("_", "-")
        if name in values:
            raise CallError(f"{where}: {key} is given twice, with a dash and with an underscore. Leave one out.")
        if name not in options:
            raise CallError(f"{where}: {_unknown(key, value, command, options)}")
        try:
            values[name] = _value(value, options[name])
        except ValueError as error:
            raise CallError(f"{where}: {key} expects {error}, but got {_shown(key, value)}.") from None
        except CallError as error:
            raise CallError(f"{where}: {key}: {error}") from None
    return values


def _unknown(key: str, value: object, command: str, options: Mapping[str, Option]) -> str:
    name = key.replace("_", "-")
    if name in _ONLY_ON_THE_COMMAND_LINE:
        return f"{key} is for the command line alone. Leave it out of the file."
    if isinstance(value, dict):
        tables = sorted(COMMANDS)
        hint = meant(key, tables) or f"Tables: {', '.join(tables)}."
        return f"there is no command {key} that a table could be for. {hint}"
    return f"{command} has no option {key}. " + (meant(name, options) or f"Options: {', '.join(options)}.")


def _value(given: object, option: Option) -> Any:
    """The value as the command line would have it. Raises ValueError with what is expected."""
    if not option.is_repeated:
        return _one(given, option, f"{_EXPECTED[option.kind]}, as in {_shown(option.name, _EXAMPLES[option.kind])}")
    expected = f"a list, as in {_shown(option.name, [_EXAMPLES[option.kind]])}"
    if not isinstance(given, list):
        raise ValueError(expected)
    return [_one(one, option, expected) for one in given]


def _one(given: object, option: Option, expected: str) -> Any:
    accepted = {bool: (bool,), int: (int,), float: (float, int), str: (str, float, int), Path: (str,)}
    if type(given) not in accepted[option.kind]:  # not isinstance: True is an int
        raise ValueError(expected)
    if isinstance(given, int | float) and option.kind in (int, float):
        if option.least is not None and not given >= option.least:
            raise ValueError(f"a number of at least {option.least:g}")
        if option.most is not None and not given <= option.most:
            raise ValueError(f"a number of at most {option.most:g}")
    if option.kind is Path:
        return str(expanded(str(given)))  # a shell does it on the command line
    return str(given) if option.kind is str else given


def _shown(key: str, value: object) -> str:
    """The entry as TOML, in one line."""
    if isinstance(value, dict):
        return "a table"
    return " ".join(tomli_w.dumps({key: value}).split()).replace("[ ", "[").replace(", ]", "]")


def _origin(message: str, file: Path, values: Mapping[str, Any]) -> str:
    """Which of the options that an error's message names came from the file; if none did, that some options did."""
    named = [name for name, value in values.items() if _names(message, name, value)]
    if not named:
        return f"(Options were read from {file}, too.)"
    return f"({file} has {', '.join(_shown(name, values[name]) for name in named)}.)"


def _names(message: str, name: str, value: object) -> bool:
    """Whether a message names this option, as in --trials or `trials >= 1`, or quotes its value."""
    option = re.search(f"(--|`){name.replace('-', '[-_]')}(?![\\w-])", message)
    return option is not None or (isinstance(value, str) and repr(value) in message)


# Writing


def config_text(values: Mapping[str, Any], module: str) -> str:
    """Return options as a file for --config has them.

    Args:
        values: by the options' names, with dashes or underscores; None and False are left out.
        module: the command's, for the first line.
    """
    kept = {name.replace("_", "-"): value for name, value in values.items() if value is not None and value is not False}
    return f"# Options of {module}, for its --config.\n{tomli_w.dumps(kept)}"


def write_config(file: Path, values: Mapping[str, Any], module: str) -> None:
    """Write options as a file for --config, in place of the file that is there."""
    with replacing(file) as stream:  # a path that is not Unicode must not stop the work; the file's reader refuses it
        stream.write(config_text(values, module).encode(errors="surrogateescape"))


def _save(file: Path, values: Mapping[str, Any], module: str) -> bool:
    """Write the options into a new file; returns whether it is new.

    Raises CallError where the file is there already and says something else.
    """
    if not file.parent.is_dir():
        raise CallError(f"--save-config {file}: there is no folder {file.parent}. Make it, or name another file.")
    if file.exists():
        try:
            there = tomllib.loads(file.read_text(encoding="utf-8-sig"))
        except (OSError, ValueError, RecursionError):
            there = None
        if there != tomllib.loads(config_text(values, module)):
            raise CallError(
                f"--save-config {file}: it exists already and holds something else. Name another file, or remove it."
            )
        return False
    write_config(file, values, module)
    return True


def _stated_values(context: typer.Context, options: Sequence[Option]) -> dict[str, Any]:
    """What the call states, as TOML has it, in the order of the options; no password, which others could read there."""
    given = stated(context) - _SECRET
    return {one.name: _plain(context.params[one.parameter]) for one in options if one.parameter in given}


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, Path) else value
