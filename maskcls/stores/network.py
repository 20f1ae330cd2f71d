"""Whether a folder lies on a network file system, by the system's own table of what is mounted."""

from __future__ import annotations

import re
from pathlib import Path

from maskcls.files import expanded

_MOUNTS = Path("/proc/self/mountinfo")
_TYPES = re.compile(
    r"(nfs\d?|cifs|smb\w*|9p|afs|beegfs\w*|ceph|gpfs|lustre|orangefs|pvfs\d?|glusterfs|davfs\d?|fuse\..*(s3|gcs|ssh|gluster"
    r"|blob|ceph|juice|goof|rclone).*)"
)
_OCTAL = re.compile(r"\\([0-7]{3})")


def network_file_system(folder: Path, mounts: str | None = None) -> str:
    """Return the type of the network file system on which a folder lies, as `nfs4`; "" where it lies on none.

    Args:
        folder: need not be there yet.
        mounts: the table, as proc(5) describes mountinfo; None: this process's own, and "" where there is none.
    """
    if mounts is None:
        mounts = _MOUNTS.read_text() if _MOUNTS.exists() else ""
    there = expanded(folder).resolve()
    found, depth = "", -1
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        point = Path(_OCTAL.sub(lambda code: chr(int(code[1], 8)), before.split()[4]))
        if there.is_relative_to(point) and len(point.parts) >= depth:  # of equals the later one lies on top
            found, depth = after.split()[0], len(point.parts)
    return found if _TYPES.fullmatch(found) else ""


def note_on_network(folder: Path, mounts: str | None = None) -> str:
    """Return a sentence about a cache on a network file system; "" of one on a machine's own disk."""
    kind = network_file_system(folder, mounts)
    if not kind:
        return ""
    return (
        f"The cache {folder} lies on a network file system ({kind}), over which every fit then reads its photos: name "
        "a folder on each machine's own disk with --cache or MASKCLS_CACHE."
    )
