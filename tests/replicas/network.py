"""Machines of the suite's own: a network namespace for each, with a router between them that drops what it is told to.

All of it is in a network, mount and process namespace that this suite enters first (`enter`), so that the kernel takes
everything away, processes and networks, with the suite's last process, however that ends.
"""

import itertools
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

PREFIX = "10.77"
# Set in the process that is inside.
INSIDE = "PALISADE_REPLICAS_INSIDE"


def enter():
    """Goes on within namespaces of our own. Returns why that is not possible here, or None once it has; the process that
    called it first waits, and ends as the one inside has."""
    if os.environ.get(INSIDE):
        # Ignored where a shell started us in the background.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run/netns"], check=True)
        ip("link", "set", "lo", "up")
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1\n")
        return None
    if sys.platform != "linux":
        return "network namespaces are Linux's"
    if os.geteuid() != 0:
        return "network namespaces need root"
    missing = [tool for tool in ("ip", "unshare", "mount", "setpriv") if not shutil.which(tool, path=search_path())]
    if missing:
        return f"there is no `{missing[0]}`: `make deps-wider` installs it"
    space = ["unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]
    Path("/run/netns").mkdir(parents=True, exist_ok=True)
    tried = subprocess.run([*space, "ip", "link", "show"], capture_output=True, text=True, env=environment())
    if tried.returncode != 0:
        return f"namespaces cannot be made here ({tried.stderr.strip()})"
    # The kernel ends it when we are gone, and all that is in its namespaces with it.
    command = ["setpriv", "--pdeathsig", "KILL", *space, sys.executable, *sys.argv]
    inside = subprocess.Popen(command, env={**environment(), INSIDE: "1"}, start_new_session=True)
    # `unshare` passes nothing on; what is inside cleans up after an interrupt.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: os.killpg(inside.pid, signal.SIGINT))
    sys.exit(inside.wait())


def search_path():
    """PATH and where Debian puts what an administrator runs."""
    return os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


def environment():
    return {**os.environ, "PATH": search_path()}


def ip(*arguments, check=True):
    return subprocess.run(["ip", *arguments], check=check, capture_output=True, text=True)


class Machine:
    """A network namespace with one address, behind the router."""

    numbers = itertools.count(1)

    def __init__(self, name):
        number = next(Machine.numbers)
        # Of its own for each: the kernel takes a former one away some time after its last process.
        self.space = f"{name}-{number}"
        # `router` is what this machine reaches the router at.
        self.address, self.router = f"{PREFIX}.{number}.2", f"{PREFIX}.{number}.1"
        link = f"to-{self.space}"
        ip("netns", "add", self.space)
        ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", self.space)
        ip("addr", "add", f"{self.router}/30", "dev", link)
        ip("link", "set", link, "up")
        for words in (["addr", "add", f"{self.address}/30", "dev", "eth0"], ["link", "set", "eth0", "up"],
                      ["link", "set", "lo", "up"], ["route", "add", "default", "via", self.router]):
            ip("-n", self.space, *words)

    def command(self, *words):
        """A command line that runs on this machine."""
        return ["ip", "netns", "exec", self.space, *words]

    def remove(self):
        ip("netns", "del", self.space)


class Cut:
    """Packets from one machine to another that the router no longer passes on. `how` is "blackhole", which is silent, or
    "unreachable", which the sender is told."""

    def __init__(self, *ways, how="blackhole"):
        self.rules = [("from", source.address, "to", target.address, how) for source, target in ways]

    def __enter__(self):
        for rule in self.rules:
            ip("rule", "add", *rule)
        return self

    def __exit__(self, *_):
        for rule in self.rules:
            ip("rule", "del", *rule)


def both(one, other):
    return (one, other), (other, one)
