"""The photos in a request's body: multipart/form-data, or JSON with base64. In memory: no parser here knows files."""

from __future__ import annotations

import base64
import json
import logging
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from maskcls.serving.web.limits import Limits
from maskcls.serving.web.refusal import Refused
from maskcls.text import counted

logging.getLogger("python_multipart").setLevel(logging.ERROR)  # no line for each malformed form

FIELD = "file"
"""Field of a form that holds a photo; the only one that may stand there, and it may be repeated."""
JSON_PUNCTUATION = 32
"""Brackets, commas and quotes that a JSON body may have beside eight for each photo.

Base64 has none, so more of them are no photos, and would take many times the body's size as Python's objects.
"""


def read_photos(content_type: str, body: bytes, limits: Limits) -> list[bytes]:
    """Return the photos' files in a body, in their order. Raises Refused."""
    kind, options = parse_options_header(content_type.encode("latin-1", "replace"))
    if kind == b"multipart/form-data":
        photos = _of_form(body, options.get(b"boundary", b""), limits)
    elif kind == b"application/json":
        photos = _of_json(body, limits)
    else:
        raise Refused(
            415,
            "wrong_content_type",
            f"A body of type multipart/form-data (field {FIELD}) or application/json expected, but got "
            f"{kind.decode('latin-1')[:80] or 'none'}.",
        )
    if not photos:
        raise Refused(400, "no_photo", f'No photo came: a field {FIELD}, "image" or "images" expected.')
    return photos


def _of_form(body: bytes, boundary: bytes, limits: Limits) -> list[bytes]:
    form = _Form(limits.photos)
    try:
        parser = MultipartParser(boundary, form.callbacks) if boundary else None
        if parser is not None:
            parser.write(body)
            parser.finalize()
    except FormParserError:
        parser = None
    if parser is None or not form.is_complete:
        raise Refused(400, "malformed", "The form is malformed: multipart/form-data as in RFC 7578 expected.")
    return form.photos


class _Form:
    """What a parser of one body calls; `photos` are the contents of its fields FIELD."""

    def __init__(self, most: int) -> None:
        self.photos: list[bytes] = []
        self.is_complete = False
        self._most = most
        self._header, self._value, self._disposition = bytearray(), bytearray(), b""
        self._parts: list[bytes] = []
        self.callbacks: Any = {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._header.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._end_header,
            "on_headers_finished": self._check,
            "on_part_data": lambda data, start, end: self._parts.append(data[start:end]),
            "on_part_end": lambda: self.photos.append(b"".join(self._parts)),
            "on_end": self._end,
        }

    def _begin(self) -> None:
        if len(self.photos) == self._most:
            raise _too_many(self._most)
        self._disposition, self._parts = b"", []

    def _end_header(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._header.clear()
        self._value.clear()

    def _check(self) -> None:
        name = parse_options_header(self._disposition)[1].get(b"name", b"")
        if name != FIELD.encode():
            unknown = name.decode("utf-8", "replace")[:40]
            raise Refused(400, "unknown_field", f"The form has a field {unknown!r}: only {FIELD} expected.")

    def _end(self) -> None:
        self.is_complete = True


def _of_json(body: bytes, limits: Limits) -> list[bytes]:
    expected = '{"image": base64} or {"images": [base64, ...]} expected'
    most = JSON_PUNCTUATION + 8 * limits.photos
    if sum(body.count(mark) for mark in (b"[", b"{", b",", b'"')) > most:
        raise Refused(
            400, "malformed", f"The JSON has more than {limits.photos} photos, or something else: {expected}."
        )
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):  # of bytes that are no UTF-8, and of a number with too many digits, too
        raise Refused(400, "malformed", f"The body is not JSON: {expected}.") from None
    if not isinstance(content, dict) or len(content) != 1 or not content.keys() <= {"image", "images"}:
        raise Refused(400, "malformed", f"The JSON is something else: {expected}.")
    images = content.get("images", [content.get("image")])
    if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
        raise Refused(400, "malformed", f"The JSON is something else: {expected}.")
    if len(images) > limits.photos:
        raise _too_many(limits.photos)
    return [_decoded(image, photo) for photo, image in enumerate(images)]


def _decoded(text: str, photo: int) -> bytes:
    """The bytes of base64, also behind the start of a data URL, as in `data:image/jpeg;base64,`."""
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:  # of text that is not ASCII, too
        raise Refused(400, "not_base64", "The photo is not base64 (RFC 4648, 4). Send it again.", photo) from None


def _too_many(most: int) -> Refused:
    return Refused(
        413, "too_many_photos", f"The request has more than {counted(most, 'photo')}. Send several requests."
    )
