"""What a command mends of its environment before it begins, for itself and the processes that it starts."""

from __future__ import annotations

import os
import pwd
from contextlib import suppress
from pathlib import Path

from maskcls.files import temporary_home

LOOPBACK = ("127.0.0.1", "localhost", "::1")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")
_EXCEPTIONS = ("no_proxy", "NO_PROXY")
_USER_VARIABLES = ("LOGNAME", "USER", "LNAME", "USERNAME")  # getpass.getuser asks for them in this order


def mend() -> None:
    """Mend what can be mended: no home folder, a user without a name, a proxy before this machine itself."""
    _name_user()
    _give_home()
    reach_loopback_directly()


def reach_loopback_directly() -> None:
    """Except this machine itself from the proxies of the environment, which could not reach it."""
    if not any(os.environ.get(name) or os.environ.get(name.upper()) for name in _PROXIES):
        return
    for name in _EXCEPTIONS:
        hosts = [host for host in os.environ.get(name, "").split(",") if host]
        if "*" not in hosts:
            os.environ[name] = ",".join(dict.fromkeys((*hosts, *LOOPBACK)))


def _name_user() -> None:
    """Name a user that the system has no name for, as in containers that run as any number: libraries ask for it."""
    if any(os.environ.get(name) for name in _USER_VARIABLES):
        return
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        os.environ["LOGNAME"] = f"user{os.getuid()}"


def _give_home() -> None:
    """Set HOME where it is missing or names no folder; libraries would make a folder called ~ in the current one.

    It is the home that the system has for the user, or else a private folder among the temporary files.
    """
    homes = [os.environ.get("HOME", "")]
    with suppress(KeyError):
        homes.append(pwd.getpwuid(os.getuid()).pw_dir)
    home = next((one for one in homes if one and Path(one).is_dir()), None)
    with suppress(OSError):  # no temporary files: what needs a home will say so
        os.environ["HOME"] = home or str(temporary_home())
