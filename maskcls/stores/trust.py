"""Whether a cache is this user's alone: who may write there can change what every fit and every bundle sees."""

from __future__ import annotations

import grp
import os
import pwd
import shlex
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from maskcls.errors import CallError
from maskcls.text import shown

KINDS = ("pixels", "features")
"""Folders of a cache that hold what fits read."""


def check_private(cache: Path) -> None:
    """Raise CallError where others may write into the cache or its stores' folders, as into one for a whole group.

    Root may write everywhere, and so may an owner; a group that only this user is in counts as the user.
    """
    for folder in (cache, *(cache / kind for kind in KINDS)):
        writers = list(_other_writers(folder))
        if writers:
            raise CallError(
                f"The cache {shown(cache)} may be written by others: {' and '.join(writers)} may write into "
                f"{shown(folder)}, and so change what is trained on and what is predicted. Name a folder of your own "
                f"(--cache, or MASKCLS_CACHE), {_remedy(folder)}, or say that you trust them: --shared-cache."
            )


def _other_writers(folder: Path) -> Iterator[str]:
    try:
        found = folder.stat()
    except OSError:  # it is not there, or whoever opens it says why not
        return
    if found.st_uid not in (0, os.geteuid()):
        yield f"its owner ({_user(found.st_uid)})"
    if found.st_mode & stat.S_IWGRP and not _is_own_group(found.st_gid, found.st_uid):
        yield f"the group {_group(found.st_gid)}"
    if found.st_mode & stat.S_IWOTH:
        yield "everybody"


def _remedy(folder: Path) -> str:
    if folder.stat().st_uid == os.geteuid():
        return f"take their right away ({shlex.join(['chmod', 'go-w', str(folder)])})"
    return "make it yours (chown)"


def _is_own_group(gid: int, uid: int) -> bool:
    """Whether a group is the owner's alone, as those that Debian and Red Hat make for each user."""
    with suppress(KeyError):
        group, owner = grp.getgrgid(gid), pwd.getpwuid(uid)
        return group.gr_name == owner.pw_name and set(group.gr_mem) <= {owner.pw_name}
    return False


def _user(uid: int) -> str:
    with suppress(KeyError):
        return pwd.getpwuid(uid).pw_name
    return f"user {uid}"  # as in a container


def _group(gid: int) -> str:
    with suppress(KeyError):
        return grp.getgrgid(gid).gr_name
    return str(gid)
