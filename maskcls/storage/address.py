"""An address of --storage as a file system of pyarrow: a folder, or as in s3://bucket/runs?endpoint_override=…"""

from __future__ import annotations

import re
from functools import cache
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from maskcls.errors import CallError
from maskcls.files import expanded

NO_STORAGE = "none"
"""Of --storage: a resume goes on without the storage that the run had."""
OBJECT_STORES = ("s3", "gcs", "abfs")
"""File systems of pyarrow on which a file appears when it is whole, and not before."""
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_EXPECTED = "Expected a folder, or an address such as s3://bucket/runs, gs://bucket/runs or file:///mnt/runs"
_SECRET = re.compile(r"key|secret|password|token|^sig", re.IGNORECASE)
"""In the name of an option of an address that is nobody's business."""
_S3_OPTIONS = ("region", "scheme", "endpoint_override")
_CONNECT_S = 2.0
_SILENT_S, _SILENT_AT_START_S = 20.0, 3.0
"""After how long a server that says nothing counts as out of reach."""


def checked(given: str, option: str = "--storage") -> str | None:
    """Return the address as a run records it, a folder as its absolute path; None for NO_STORAGE.

    Raises CallError where it cannot be one.
    """
    if given == NO_STORAGE:
        return None
    if not _SCHEME.match(given):
        if not given:
            raise CallError(f"{option} is empty. {_EXPECTED}.")
        return str(expanded(given).resolve())
    parts = urlsplit(given)
    is_key = parts.password is not None or ("@" in parts.netloc and parts.scheme == "s3")
    if is_key or any(_SECRET.search(name) for name, _ in parse_qsl(parts.query, keep_blank_values=True)):
        names = " (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)" if parts.scheme == "s3" else ""
        raise CallError(
            f"{option} has a key in its address, which the run's record would show to everybody who reads it. Leave it "
            f"out, and give it by the environment{names}, a profile or a role."
        )
    if parts.scheme == "s3":
        for name, _ in parse_qsl(parts.query):
            if name not in _S3_OPTIONS:
                raise CallError(f"{option} {given}: there is no option {name}. Expected {', '.join(_S3_OPTIONS)}.")
    return given


@cache
def opened(address: str, *, at_start: bool = False) -> tuple[Any, str]:
    """Return the file system of pyarrow and the path in it, once in each process.

    Args:
        at_start: do not wait long for a server that says nothing.

    Raises CallError where pyarrow knows no such address, and OSError where it is out of reach.
    """
    from pyarrow import ArrowInvalid
    from pyarrow.fs import FileSystem

    if address.startswith("s3://"):
        return _s3(address, _SILENT_AT_START_S if at_start else _SILENT_S)
    if address.startswith(("gs://", "gcs://")) and "retry_limit_seconds" not in address:
        # Google's client would try for a quarter of an hour by itself; the caller tries for as long as it should.
        silent_s = _SILENT_AT_START_S if at_start else _SILENT_S
        address += f"{'&' if '?' in address else '?'}retry_limit_seconds={silent_s:g}"
    try:
        system, path = FileSystem.from_uri(address)
    except ArrowInvalid as error:
        raise CallError(f"{address}: {str(error).rstrip('.')}. {_EXPECTED}.") from None
    return system, path.rstrip("/")


def _s3(address: str, silent_s: float) -> tuple[Any, str]:
    from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem, resolve_s3_region

    parts = urlsplit(address)
    given = dict(parse_qsl(parts.query))
    if "region" not in given and "endpoint_override" not in given:
        given["region"] = resolve_s3_region(parts.netloc)
    system = S3FileSystem(
        **given,
        connect_timeout=_CONNECT_S,
        request_timeout=silent_s,
        retry_strategy=AwsStandardS3RetryStrategy(max_attempts=2),  # the caller tries for longer
        allow_delayed_open=True,  # a small object is one request instead of three
    )
    return system, f"{parts.netloc}{parts.path}".rstrip("/")
