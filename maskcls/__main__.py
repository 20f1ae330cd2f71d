"""`maskcls COMMAND`, which is `python -m maskcls COMMAND`: every command under one name.

Only the module of the command that is asked for is imported. The commands of the search are in `tune`, which is above
this package; they are named here and never imported by name.
"""

from __future__ import annotations

import importlib
import importlib.util
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand
from typer.main import get_command

from maskcls.cli import CommandGroup, app_of, new_app, run
from maskcls.errors import CallError

COMMANDS = {
    "search": ("tune.search.__main__:main", "Search for the best recipe; the winner becomes a bundle."),
    "report": ("tune.report.__main__:main", "Write a search's page again, with more than it has at the end."),
    "compare": ("tune.compare.__main__:main", "Say whether a choice helps, over several seeds and people."),
    "dashboard": ("tune.dashboard.__main__:main", "Serve a search's trials as pages, also while it runs."),
    "audit": ("tune.audit.__main__:main", "Find labels that are probably wrong, to judge on a page."),
    "ensemble": ("tune.ensemble:main", "Average the finalists of searches, if that is better."),
    "runs": ("tune.upkeep.runs:app", "List, show, prune or repair runs."),
    "status": ("tune.upkeep.status:main", "Say how a run or a cluster stands, live or finished."),
    "export": ("tune.export:main", "Export any trial of a search as a bundle."),
    "reproduce": ("tune.reproduce:main", "Train a recorded trial again, to the bit."),
    "train": ("maskcls.train:main", "Train one recipe without a search."),
    "predict": ("maskcls.predict:main", "Classify photos and write a submission."),
    "evaluate": ("maskcls.evaluate:main", "Score a bundle, or a submission, on labelled photos."),
    "check": ("maskcls.check:main", "List everything that is wrong with a folder of photos."),
    "explore": ("maskcls.explore:main", "Show labelled photos as one page, before training."),
    "cache": ("maskcls.cache:app", "List or remove decoded photos and frozen features."),
    "demo": ("maskcls.demo:main", "Draw a folder of faces."),
    "serve": ("maskcls.serve:main", "Serve a page for the webcam."),
}
"""Of each command: its function or app, as entry points are written, and what it does."""
PACKAGES = Path(__file__).parents[1]
"""The folder in which this package was installed, and `tune` with it."""


class Deferred(TyperCommand):
    """A command whose module is imported when it is called; until then only its name and its line of help are there."""

    def __init__(self, name: str, target: str, summary: str) -> None:
        super().__init__(name, help=summary)
        self._target = target

    def make_context(self, *arguments: Any, **settings: Any) -> Any:
        """Return a context of the command itself, so that parsing, help, completion and the call are its own."""
        return get_command(app_of(load(self._target))).make_context(*arguments, **settings)


class Commands(CommandGroup):
    """The group of all commands."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for name, (target, summary) in COMMANDS.items():
            self.add_command(Deferred(name, target, summary))


app = new_app(group=Commands, add_completion=True)


def _print_version(context: typer.Context, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:  # otherwise the shell wants a word completed
        try:
            typer.echo(f"maskcls {version('maskcls')}")
        except PackageNotFoundError:
            typer.echo("maskcls, not installed")
        raise typer.Exit


@app.callback(no_args_is_help=True)
def group(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Search for the best classifier of a folder of faces, and use it."""


def load(target: str) -> Any:
    """Return the object that an entry point such as `tune.export:main` names.

    Raises CallError if something else has the name of the package.
    """
    module, _, name = target.partition(":")
    package = module.partition(".")[0]
    spec = importlib.util.find_spec(package)
    ours = PACKAGES / package
    if spec is None or spec.origin is None or Path(spec.origin).resolve() != (ours / "__init__.py").resolve():
        raise CallError(_shadowed(package, spec.origin if spec else None))
    try:
        return getattr(importlib.import_module(module), name)
    except ImportError:
        if package != "maskcls" and _is_distribution(package):
            raise CallError(_shadowed(package, f"the distribution {package}, which was installed over it")) from None
        raise


def _shadowed(package: str, by: str | None) -> str:
    return (
        f"The package {package} in {PACKAGES} is hidden or damaged; Python finds {by or 'no such package'} instead. If "
        f"that is a file of the current folder, call `maskcls`, which does not look there, or rename the file. If it "
        f"is another distribution, `pip uninstall {package}` and install maskcls again."
    )


def _is_distribution(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True


def main() -> None:
    """Run the command line: the console script `maskcls`."""
    run(app)


if __name__ == "__main__":
    main()
