"""Where a command's words go with --quiet and --json, in a process of its own, native code and children included."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.tune.runs.documented_events import read_events

ROOT = Path(__file__).parents[3]
PROGRAM = """
import logging, os, subprocess, sys, warnings
from rich.console import Console
import typer
from tune.runs import events, output

with output.directed(quiet="quiet" in sys.argv, as_json="json" in sys.argv):
    print("print")
    typer.echo("echo")
    typer.echo("note", err=True)
    Console(stderr=True).print("console")
    warnings.warn("warning")
    logging.getLogger("maskcls").warning("logged")
    if "json" in sys.argv:
        os.write(1, b"native\\n")
        subprocess.run(["echo", "child"], check=True)
    events.emit(events.Done("finished", 0))
    print("result", file=output.results())
    print("error", file=output.errors())
print("after")
os.write(1, b"native after\\n")
"""


@pytest.mark.parametrize(
    ("options", "out", "err"),
    [
        ([], ["print", "echo", "result"], ["note", "console", "warning", "logged", "error"]),
        (["quiet"], ["result"], ["error"]),
        (["json"], [], ["print", "echo", "note", "console", "warning", "logged", "native", "child", "result", "error"]),
        (["quiet", "json"], [], ["error"]),
    ],
)
def test_each_word_goes_where_the_options_say(options: list[str], out: list[str], err: list[str]) -> None:
    said = subprocess.run(
        [sys.executable, "-c", PROGRAM, *options], cwd=ROOT, capture_output=True, text=True, check=True
    )
    lines = said.stdout.splitlines(keepends=True)
    assert sorted(lines[-2:]) == ["after\n", "native after\n"], "afterwards all is as it was"
    lines = lines[:-2]
    if "json" in options:
        assert [event["event"] for event in read_events(lines)] == ["done"]
    else:
        assert [line.strip() for line in lines] == out
    heard = [line.split("UserWarning: ")[-1] for line in said.stderr.splitlines() if not line.startswith("  ")]
    assert sorted(heard) == sorted(err)


def test_events_are_apart_where_a_program_reads_stderr_itself(tmp_path: Path) -> None:
    program = """
import contextlib, io, os
from tune.runs import events, output

heard = io.StringIO()
with contextlib.redirect_stderr(heard), output.directed(quiet=False, as_json=True):
    print("print")
    os.write(1, b"native\\n")
    events.emit(events.Done("finished", 0))
assert heard.getvalue() == "print\\n"
"""
    said = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert [event["event"] for event in read_events(said.stdout.splitlines(keepends=True))] == ["done"]
    assert said.stderr == "native\n"
