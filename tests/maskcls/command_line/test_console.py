"""Texts in a table cannot act on the terminal, while the table's own colours stay."""

from __future__ import annotations

import io
import logging

from rich.table import Table

from maskcls.cli import _Printable
from maskcls.command_line.console import SafeConsole
from maskcls.errors import RunError

HOSTILE = "\x1b]0;owned\x07\x1b[2J a\u202eexe.gpj \x9b31m"
ESCAPED = r"\x1b]0;owned\x07\x1b[2J a\u202eexe.gpj \x9b31m"


def test_a_name_in_a_table_is_escaped_and_the_tables_own_style_stays() -> None:
    out = io.StringIO()
    table = Table("name", box=None)
    table.add_row(HOSTILE, style="bold")
    SafeConsole(file=out, width=120, force_terminal=True, color_system="standard").print(table)
    written = out.getvalue()
    assert r"\x1b]0;owned" in written
    assert "\x1b[1m" in written, "rich's own"
    assert not {"\x07", "\x9b", "\u202e"} & set(written)
    assert "\x1b]" not in written
    assert "\x1b[2J" not in written


def test_errors_and_log_lines_are_escaped_too() -> None:
    assert str(RunError(f"{HOSTILE}\nnext\tline")) == f"{ESCAPED}\nnext\tline"
    record = logging.LogRecord("maskcls", logging.INFO, "", 0, "photo %s", (HOSTILE,), None)
    assert _Printable().format(record) == f"photo {ESCAPED}"
