"""FolderLock: a lock that one process holds at a time, also where somebody removes its lock file."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from filelock import FileLock, Timeout

_UNLOCKABLE = {errno.EBADF, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL, errno.EACCES, errno.ENOENT}
"""Of a folder: NFS locks no folder, this user may not read it, or it is not there yet."""


class FolderLock:
    """The kernel's lock of a folder itself (flock(2)), and a lock file beside or in it.

    Both end with the process that holds them. The folder's lock survives that somebody removes the lock file; the file
    is for file systems that lock no folder, for a folder that is not there yet, and for earlier versions.
    """

    def __init__(self, folder: Path, file: Path) -> None:
        self._folder, self._file = folder, FileLock(file)
        self._descriptor: int | None = None

    def acquire(self, *, wait: bool = True) -> Self:
        """Take both locks. Raises filelock.Timeout where another holds one of them, and `wait` is false."""
        self._file.acquire(timeout=-1 if wait else 0)
        try:
            self.take_folder(wait=wait)
        except BaseException:
            self._file.release()
            raise
        return self

    def take_folder(self, *, wait: bool = True) -> None:
        """Take the lock of the folder, again where the folder was made since the lock was acquired."""
        self._leave_folder()
        descriptor = None
        try:
            descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            if descriptor is not None:
                os.close(descriptor)
            if isinstance(error, BlockingIOError):
                raise Timeout(str(self._folder)) from None
            if error.errno not in _UNLOCKABLE:
                raise
            return
        self._descriptor = descriptor

    def release(self) -> None:
        """Give both locks back."""
        self._leave_folder()
        self._file.release()

    def _leave_folder(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        return self if self._file.is_locked else self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
