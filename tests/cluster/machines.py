"""Several machines on this one: each has its own address, processes, /tmp, home and shared memory, and one cable.

Each is a set of Linux namespaces (network, mounts, processes, host name), and a bridge in a network namespace of its
own is the switch between them. Nothing is left of them when their first processes end. Whoever is not root is it in a
namespace of users of his own, where the kernel lets him.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
NETWORK = "10.77.0"
HOME = "/tmp/home"
"""On each machine, in its own /tmp."""
_TOOLS = ("ip", "unshare", "nsenter", "mount", "setpriv")
_SWITCH = "ip link set lo up; ip link add switch type bridge; ip link set switch up; echo ready; sleep infinity & wait"
# What all machines share keeps its path, though it may lie in /tmp, which is each machine's own. So does this
# repository. A move is not noted in /run (-n), which is root's.
_MACHINE = """
set -e
mount --bind "$1" /mnt
case "$6" in /tmp/*) mount --rbind "$6" /media ;; esac
mount -t tmpfs -o size="$2" tmpfs /tmp
mkdir -p "$1" "$6"
mount -n --move /mnt "$1"
case "$6" in /tmp/*) mount -n --move /media "$6" ;; esac
mount -t tmpfs -o size=400m tmpfs /dev/shm
hostname "$3"
mkdir -p /tmp/home/.ray
if [ -n "$4" ]; then mount --bind "$4" "$5"; fi
echo ready
sleep infinity &
wait
"""
_IS_ROOT = os.geteuid() == 0
_OF_USERS = [] if _IS_ROOT else ["--user", "--map-root-user"]
"""What makes the switch's process root, as far as its own namespaces go."""
_AS_ROOT = [] if _IS_ROOT else ["--user", "--preserve-credentials"]
"""What makes root of who enters the namespaces of a process that is."""
_RAY = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
    "OMP_NUM_THREADS": "1",
    "PYTHONUNBUFFERED": "1",
}
_STORE_BYTES = 78_643_200  # the least that Ray takes


def cannot() -> str:
    """Why no such machines can be made here; "" where they can."""
    if sys.platform != "linux":
        return "machines in namespaces of their own need Linux"
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if missing:
        return f"there is no {', '.join(missing)} (Debian: iproute2, util-linux)"
    kinds = [*_OF_USERS, "--net", "--mount", "--pid", "--fork", "--uts"]
    tried = subprocess.run(
        ["unshare", *kinds, "ip", "link", "add", "name", "a0", "type", "veth"], capture_output=True, check=False
    )
    as_root = "" if _IS_ROOT else ", and might not refuse root"
    return "" if tried.returncode == 0 else f"the kernel refuses{as_root}: {tried.stderr.decode().strip()}"


@dataclass
class Machine:
    """A machine, switched on. Its processes are seen from here, too, and end with `power_off`."""

    name: str
    address: str
    keeper: subprocess.Popen[str]
    """`unshare`, whose child is the machine's first process."""
    first: int
    """The process whose namespaces are the machine's."""
    port: str
    """Its cable's end in the switch."""
    switch: int
    environment: Mapping[str, str] = field(default_factory=dict)
    groups: Sequence[Path] = ()
    """The control groups that bound its memory or its processor time."""

    def words(self, *words: object, env: Mapping[str, str] | None = None) -> list[str]:
        """Return a command line that runs these words on the machine, in the repository's root."""
        variables = {"HOME": HOME, **_RAY, "PYTHONPATH": str(ROOT), **self.environment, **(env or {})}
        joins = "".join(f"echo $$ > {group}/cgroup.procs && " for group in self.groups)
        bound = ["sh", "-c", f'{joins}exec "$@"', "sh"] if self.groups else []
        enter = [*bound, "nsenter", "-t", str(self.first), *_AS_ROOT, "--net", "--mount", "--pid", "--uts", "--"]
        clean = [f"--unset={name}" for name in os.environ if name.startswith(("RAY_", "PYTEST_")) or name == "TMPDIR"]
        assigned = [f"{name}={value}" for name, value in variables.items()]
        return [*enter, "env", *clean, *assigned, "sh", "-c", f'cd "{ROOT}" && exec "$@"', "sh", *map(str, words)]

    def start(self, *words: object, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """Start a command on the machine; `python` is this one."""
        pipe = subprocess.PIPE
        return subprocess.Popen(
            self.words(*_with_python(words), env=env), stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True
        )

    def run(
        self, *words: object, env: Mapping[str, str] | None = None, timeout: float = 300
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on the machine to its end. A daemon that it leaves does not keep it from returning."""
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            done = subprocess.run(
                self.words(*_with_python(words), env=env),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                timeout=timeout,
                check=False,
            )
            texts = []
            for file in (out, err):
                file.seek(0)
                texts.append(file.read())
        return subprocess.CompletedProcess(done.args, done.returncode, *texts)

    def ray_start(self, *words: object, env: Mapping[str, str] | None = None) -> None:
        """Run the real `ray start` with these options, without dashboard. Raises AssertionError if it fails."""
        common = ("--node-ip-address", self.address, "--object-store-memory", _STORE_BYTES)
        done = self.run("ray", "start", *common, *words, env=env)
        assert done.returncode == 0, done.stdout + done.stderr

    def cut(self) -> None:
        """Pull the machine's cable: packets are lost, and no end of a connection learns of it."""
        _in_network(self.switch, "ip", "link", "set", self.port, "down")

    def heal(self) -> None:
        """Put the cable back."""
        _in_network(self.switch, "ip", "link", "set", self.port, "up")

    def power_off(self) -> None:
        """End the machine at once, its cable first, so that its connections are not closed either."""
        self.cut()
        for process in (self.first, self.keeper.pid):
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.keeper.communicate()

    def processes(self, name: str) -> list[psutil.Process]:
        """Return the machine's processes whose name or command line begins so, as `raylet` or `ray::`."""
        found = []
        for process in _of_namespace(self.first):
            try:
                if process.name().startswith(name) or " ".join(process.cmdline()).startswith(name):
                    found.append(process)
            except psutil.Error:
                continue
        return found


@dataclass
class Lan:
    """Machines on one switch, and the folder that all of them see under its own path."""

    shared: Path
    switch: subprocess.Popen[str]
    machines: list[Machine] = field(default_factory=list)

    def machine(
        self,
        name: str,
        *,
        tmp: str = "1g",
        env: Mapping[str, str] | None = None,
        groups: Sequence[Path] = (),
        sees: tuple[Path, Path] | None = None,
    ) -> Machine:
        """Switch a new machine on.

        Args:
            tmp: size of its own /tmp, where its cache and Ray's files lie, as tmpfs takes it.
            env: environment variables of all its commands.
            groups: the control groups that bound its memory or its processor time.
            sees: one of these, and the place at which the machine sees it, as a container sees its own.
        """
        number = len(self.machines) + 1
        address, port = f"{NETWORK}.{number}", f"port{number}"
        kinds = ["--net", "--mount", "--pid", "--uts", "--fork", "--kill-child", "--mount-proc"]
        seen = [str(place) for place in sees or ("", "")]
        own = (str(self.shared), tmp, name, *seen, str(ROOT))
        as_root = ["nsenter", "-t", str(self.switch.pid), *_AS_ROOT, "--"] if _AS_ROOT else []
        keeper = _ready([*as_root, "unshare", *kinds, "sh", "-c", _MACHINE, "sh", *own])
        (first,) = psutil.Process(keeper.pid).children()
        switch = self.switch.pid
        _in_network(switch, "ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", str(first.pid))
        _in_network(switch, "ip", "link", "set", port, "master", "switch", "up")
        for words in (
            "ip link set lo up",
            f"ip address add {address}/24 dev eth0",
            "ip link set eth0 up",
            f"ip route add default via {NETWORK}.254",  # nobody is there; Ray asks the routes for its own address
        ):
            _in_network(first.pid, *words.split())
        made = Machine(name, address, keeper, first.pid, port, switch, dict(env or {}), groups)
        self.machines.append(made)
        return made


@contextmanager
def lan(shared: Path) -> Iterator[Lan]:
    """Give a switch without machines; at the block's end all machines are switched off."""
    shared.mkdir(parents=True, exist_ok=True)
    made = Lan(shared, _ready(["unshare", *_OF_USERS, "--net", "sh", "-c", _SWITCH]))
    try:
        yield made
    finally:
        for machine in made.machines:
            if machine.keeper.poll() is None:
                machine.power_off()
        for child in psutil.Process(made.switch.pid).children(recursive=True):
            child.kill()
        made.switch.kill()
        made.switch.communicate()


def wait_until(holds: Callable[[], object], what: str, limit_s: float = 300) -> None:
    """Wait until the function's answer is true. Raises TimeoutError that says what was waited for."""
    until = time.monotonic() + limit_s
    while not holds():
        if time.monotonic() > until:
            raise TimeoutError(f"Waited {limit_s:g} s in vain until {what}.")
        time.sleep(0.1)


def _ready(words: Sequence[str]) -> subprocess.Popen[str]:
    """Start a process that ends with this one, and wait until it says that it is ready."""
    started = subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert started.stdout is not None
    if started.stdout.readline() != "ready\n":
        raise RuntimeError(f"{words[-1]} was not ready: {started.communicate()[1]}")
    return started


def _in_network(pid: int, *words: str) -> None:
    enter = ["nsenter", "-t", str(pid), *_AS_ROOT, "--net", "--"]
    subprocess.run([*enter, *words], check=True, capture_output=True, text=True)


def _with_python(words: Sequence[object]) -> list[object]:
    """The words, with the scripts of this Python's environment by their whole path."""
    scripts = Path(sys.executable).parent
    return [scripts / str(words[0]) if words[0] in ("python", "ray") else words[0], *words[1:]]


def _of_namespace(pid: int) -> list[psutil.Process]:
    """Return all processes of the same process namespace, those too whose parents have ended."""
    space = Path(f"/proc/{pid}/ns/pid").readlink()
    found = []
    for process in psutil.process_iter():
        try:
            if Path(f"/proc/{process.pid}/ns/pid").readlink() == space:
                found.append(process)
        except OSError:
            continue
    return found
