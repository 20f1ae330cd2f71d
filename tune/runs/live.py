"""What the live pictures of a search and of many fits have in common."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from maskcls.command_line.console import SafeConsole


def console(*, stderr: bool = False) -> Console:
    """Return a console that writes plain lines in a notebook, whose streams say that they were a terminal.

    Rich itself would make an HTML object of each line there.
    """
    is_plain = False if Console().is_jupyter else None
    return SafeConsole(stderr=stderr, force_jupyter=False, force_terminal=is_plain)


class LivePicture:
    """A table and a headline, drawn again and again on a terminal within the block; elsewhere lines take their place.

    Args:
        plain: lines instead of the picture; None: as the terminal can.
        stays: whether the last picture stays on the terminal after the block.
    """

    def __init__(self, plain: bool | None, *, stays: bool) -> None:
        self.console = console(stderr=True)
        self.plain = not self.console.is_terminal if plain is None else plain
        self.began = time.monotonic()
        self.is_over = False
        """Whether the work has ended, so that the picture is the last one."""
        self._stays = stays
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if not self.plain:
            # Not before, for rich asks for the picture at once.
            self._live = Live(
                get_renderable=self.picture,
                console=self.console,
                refresh_per_second=2,
                transient=not self._stays,
            )
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.is_over = True
        if self._live:
            self._live.stop()  # draws once more

    def say(self, text: str) -> None:
        """Print a line above the picture."""
        self.console.print(text, style="bold", highlight=False, soft_wrap=True)

    def picture(self) -> Group:
        """Return the table, and below it the remarks and the headline."""
        remarks = [Text(remark, no_wrap=True, overflow="ellipsis") for remark in self.remarks()]
        return Group(self.table(), *remarks, Text(self.headline(), style="bold"))

    def remarks(self) -> list[str]:
        """Return lines between the table and the headline. What is too long for the terminal is cut."""
        return []

    def table(self) -> Table:
        """Return one row per trial or fit that is shown."""
        raise NotImplementedError

    def headline(self) -> str:
        """Say in under 80 columns how far the whole work is."""
        raise NotImplementedError


def empty_table() -> Table:
    """Return a table without lines, whose columns are two spaces apart."""
    return Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
