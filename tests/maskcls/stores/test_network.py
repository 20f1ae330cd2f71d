"""A cache on a network file system is known by the table of mounts."""

from __future__ import annotations

from pathlib import Path

from maskcls.stores.network import network_file_system, note_on_network

MOUNTS = r"""22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 22 0:40 / /home rw - nfs4 server:/home rw,vers=4.2
31 22 0:41 / /mnt/with\040space rw - cifs //server/share rw
32 22 0:42 / /mnt/bucket rw - fuse.s3fs s3fs rw
33 30 254:1 / /home/me/disk rw - xfs /dev/vdb rw
34 22 0:43 / /mnt/encrypted rw - fuse.gocryptfs disk rw
35 22 0:44 / /data rw - nfs4 server:/data rw
36 35 254:2 / /data rw - ext4 /dev/vdc rw
"""


def test_the_deepest_mount_decides() -> None:
    kinds = {
        "/": "",
        "/home/me/.cache/maskcls": "nfs4",
        "/homes": "",
        "/home/me/disk/cache": "",
        "/mnt/with space/cache": "cifs",
        "/mnt/bucket": "fuse.s3fs",
        "/mnt/encrypted": "",
        "/data/cache": "",
    }
    assert {place: network_file_system(Path(place), MOUNTS) for place in kinds} == kinds


def test_what_is_mounted_here_is_read(tmp_path: Path) -> None:
    assert network_file_system(Path("/proc")) == ""
    assert note_on_network(tmp_path / "cache", "22 1 0:1 / / rw - nfs server:/ rw").startswith(
        f"The cache {tmp_path / 'cache'} lies on a network file system (nfs), over which every fit then reads"
    )
    assert note_on_network(Path("/"), MOUNTS) == ""
