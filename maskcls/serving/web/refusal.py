"""A request that is refused: the status, a word for programs, and a sentence for people."""

from __future__ import annotations

from collections.abc import Mapping

from maskcls.errors import MaskclsError

RETRY_S = 1
"""What Retry-After says: how long a refused client should wait, s."""


class Refused(MaskclsError):  # noqa: N818 - the state of a request
    """A request is not answered with a prediction.

    Args:
        status: of HTTP.
        code: one word for programs; the page has its own sentence for each, in two languages.
        message: what is wrong, what was expected, what to do.
        photo: which of the request's photos, from 0, if it is about one.
        headers: of the answer, beside those that follow from the status.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        photo: int | None = None,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.photo = photo
        self._headers = dict(headers or {})

    def to_dict(self) -> dict[str, dict[str, str | int]]:
        """Return the answer's JSON."""
        error: dict[str, str | int] = {"code": self.code, "message": str(self)}
        return {"error": error if self.photo is None else {**error, "photo": self.photo}}

    @property
    def headers(self) -> dict[str, str]:
        """The answer's own headers."""
        own = dict(self._headers)
        if self.status in (429, 503):
            own["retry-after"] = str(RETRY_S)
        if self.status == 401:
            own["www-authenticate"] = 'Basic realm="maskcls", charset="UTF-8"'
        if self.status in (408, 413, 429, 503):
            own["connection"] = "close"  # the rest of the request, if there is one, is not read
        return own
