"""A cache that others may write is refused, unless the call says that they are trusted."""

from __future__ import annotations

import grp
import os
import pwd
from pathlib import Path

import pytest

from maskcls.errors import CallError
from maskcls.stores.cache_options import CacheOptions
from maskcls.stores.trust import check_private
from tests.conftest import NOBODY

gives_away = pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a folder to others")


@gives_away
@pytest.mark.parametrize(
    ("mode", "writers"),
    [
        (0o777, "the group .* and everybody may write"),
        (0o1777, "everybody"),
        (0o757, "everybody"),
        (0o775, "the group"),
    ],
)
@pytest.mark.parametrize("part", [".", "pixels", "features"])
def test_a_folder_that_others_may_write_is_refused(tmp_path: Path, mode: int, writers: str, part: str) -> None:
    folder = tmp_path / "cache" / part
    folder.mkdir(parents=True)
    os.chown(folder, -1, NOBODY)  # a group that is not this user's own
    folder.chmod(mode)
    with pytest.raises(CallError, match=writers) as caught:
        CacheOptions(tmp_path / "cache").folder  # noqa: B018 - it is asked where the cache is used
    said = str(caught.value)
    assert f"chmod go-w {folder}" in said
    assert said.endswith("say that you trust them: --shared-cache.")
    assert CacheOptions(tmp_path / "cache", shared=True).folder == tmp_path / "cache"
    folder.chmod(mode & ~0o022)
    assert CacheOptions(tmp_path / "cache").folder == tmp_path / "cache"


@gives_away
def test_another_users_folder_is_refused_and_said_whose_it_is(tmp_path: Path) -> None:
    os.chown(tmp_path, 54321, -1)  # as a volume of a container
    with pytest.raises(CallError, match=r"its owner \(user 54321\) may write into .* make it yours \(chown\)"):
        check_private(tmp_path)


def test_a_folder_that_is_not_there_or_in_a_sticky_one_is_fine(tmp_path: Path) -> None:
    check_private(tmp_path / "no" / "cache")
    tmp_path.chmod(0o1777)  # as /tmp
    (tmp_path / "cache").mkdir(mode=0o755)
    check_private(tmp_path / "cache")


def test_the_group_of_the_user_alone_is_the_user(tmp_path: Path) -> None:
    own, user = os.getgid(), pwd.getpwuid(os.geteuid()).pw_name
    if grp.getgrgid(own).gr_name != user:
        pytest.skip("this user has no group of its own")
    os.chown(tmp_path, -1, own)
    tmp_path.chmod(0o775)  # with umask 002
    check_private(tmp_path)
