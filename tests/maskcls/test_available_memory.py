"""A container's memory counts, not its machine's: both versions of control groups, as files of a made-up kernel."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from maskcls.machine import available_memory, memory_groups, memory_kills

GB = 10**9


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    (tmp_path / "proc" / "self").mkdir(parents=True)
    return tmp_path / "proc"


def group(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(f"{text}\n")


def test_of_version_2_the_tightest_group_counts_without_what_the_kernel_can_drop(tmp_path: Path, proc: Path) -> None:
    (proc / "self" / "cgroup").write_text("0::/outer/inner\n")
    root = tmp_path / "cgroup"
    group(root / "outer", memory__max=4 * GB, memory__current=3 * GB, memory__stat=f"anon 5\ninactive_file {GB}")
    group(root / "outer" / "inner", memory__max="max", memory__current=GB, memory__events="low 0\noom 3\noom_kill 2")
    assert memory_groups(root, proc) == [root / "outer" / "inner", root / "outer"]
    assert available_memory(root, proc) == 2 * GB
    assert memory_kills(root, proc) == 2


def test_of_version_1_and_in_a_container_that_sees_its_own_group_as_the_uppermost(tmp_path: Path, proc: Path) -> None:
    (proc / "self" / "cgroup").write_text("9:cpu:/docker/abc\n4:memory:/docker/abc\n0::/\n")
    root = tmp_path / "cgroup"
    group(
        root / "memory",
        memory__limit_in_bytes=2 * GB,
        memory__usage_in_bytes=GB,
        memory__stat=f"inactive_file 1\ntotal_inactive_file {GB // 2}",
        memory__oom_control="oom_kill_disable 0\nunder_oom 0\noom_kill 7",
    )
    assert memory_groups(root, proc) == [root / "memory"]
    assert available_memory(root, proc) == 3 * GB // 2
    assert memory_kills(root, proc) == 7


def test_without_groups_it_is_the_machines(tmp_path: Path, proc: Path) -> None:
    (proc / "vmstat").write_text("nr_free_pages 5\noom_kill 4\n")
    assert memory_groups(tmp_path, proc) == []
    assert 0 < available_memory(tmp_path, proc) <= psutil.virtual_memory().total
    assert memory_kills(tmp_path, proc) == 4
