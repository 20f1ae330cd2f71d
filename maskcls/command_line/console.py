"""A console of rich whose texts cannot act on the terminal, whatever names stand in them."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from maskcls.text import printable


class SafeConsole(Console):
    """Rich's console, but control characters in texts are escaped as by `printable`; its own are added later."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield what is to be written, piece by piece."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)
