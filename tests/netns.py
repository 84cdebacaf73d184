"""A private network of namespaces for the members of a cluster, and faults in it.

Every member lives in a network namespace of its own, joined by a bridge; the test itself, as the
clients, is on that bridge too. The bridge has a namespace of its own as well: in the machine's own
one a firewall (docker's, say) may drop what crosses a bridge.

What is cut is cut by iptables in the INPUT chain of the receiving namespace, so a cut can be
one-way and the clients are never cut off. Needs root, `ip` and `iptables`; `unavailable()` says
what is missing. Nothing of it leaves the machine.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from types import TracebackType
from typing import Final, Self

_NEEDED: Final = ("ip", "iptables")
_TRIES: Final = 10


class NetworkError(Exception):
    """A command that sets the network up or breaks it failed; the text is the command's own."""


def unavailable() -> str | None:
    """Return why there can be no such network here, None if there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    for program in _NEEDED:
        if _program(program) is None:
            return f"no program {program}"
    name = f"tt{os.getpid() % 10000}probe"
    try:
        _run("ip", "netns", "add", name)
    except NetworkError as error:
        return str(error)
    try:
        _run("ip", "netns", "exec", name, "iptables", "-w", "-A", "INPUT", "-j", "ACCEPT")
    except NetworkError as error:
        return str(error)
    finally:
        _run("ip", "netns", "del", name)
    return None


class Network:
    """`size` namespaces on one bridge. A context manager; its end takes everything down.

    Namespaces are counted from 0; `address(n)` is what the others reach namespace n by.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._prefix = ""
        self._subnet = ""
        self._namespaces: list[str] = []

    def __enter__(self) -> Self:
        try:
            self._set_up()
        except BaseException:
            self._take_down()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._take_down()

    def address(self, number: int) -> str:
        """Return the address of a namespace."""
        return f"{self._subnet}.{number + 11}"

    def inside(self, number: int) -> list[str]:
        """Return what goes before a command to run it in a namespace, in the same process."""
        return [_program("ip") or "ip", "netns", "exec", self._namespaces[number]]

    def drop(self, receiver: int, sender: int, probability: float = 1.0) -> None:
        """Let a namespace lose what another sends it: all, or at random."""
        rule = ["-s", self.address(sender)]
        if probability < 1.0:
            rule += ["-m", "statistic", "--mode", "random", "--probability", str(probability)]
        self._iptables(receiver, "-A", "INPUT", *rule, "-j", "DROP")

    def cut(self, one: int, other: int) -> None:
        """Cut the link between two namespaces in both directions."""
        self.drop(one, other)
        self.drop(other, one)

    def split(self, *groups: tuple[int, ...]) -> None:
        """Cut every link between namespaces of different groups."""
        for position, group in enumerate(groups):
            for others in groups[position + 1 :]:
                for one in group:
                    for other in others:
                        self.cut(one, other)

    def lose(self, probability: float) -> None:
        """Let every namespace lose packets of all others at random."""
        for receiver in range(self.size):
            for sender in range(self.size):
                if sender != receiver:
                    self.drop(receiver, sender, probability)

    def heal(self) -> None:
        """Take every fault back."""
        for number in range(self.size):
            self._iptables(number, "-F", "INPUT")

    def _iptables(self, number: int, *arguments: str) -> None:
        _run(*self.inside(number), "iptables", "-w", *arguments)

    def _set_up(self) -> None:
        for _ in range(_TRIES):
            self._prefix = f"tt{random.randrange(16**5):05x}"
            self._subnet = f"10.{random.randrange(64, 250)}.{random.randrange(250)}"
            try:
                _run("ip", "netns", "add", self._hub)
                self._link(self._outer, self._hub, "clients")
                _run("ip", "addr", "add", f"{self._subnet}.1/24", "dev", self._outer)
            except NetworkError:
                self._take_down()
                continue
            break
        else:
            raise NetworkError(f"no bridge in {_TRIES} tries")
        at_hub = ["ip", "-n", self._hub]
        _run(*at_hub, "link", "add", "bridge", "type", "bridge")
        _run(*at_hub, "link", "set", "bridge", "up")
        _run(*at_hub, "link", "set", "clients", "master", "bridge", "up")
        _run("ip", "link", "set", self._outer, "up")
        for number in range(self.size):
            name = f"{self._prefix}n{number}"
            _run("ip", "netns", "add", name)
            self._namespaces.append(name)
            between = f"{self._prefix}m"
            self._link(between, name, "eth0")
            _run("ip", "link", "set", between, "netns", self._hub, "name", f"member{number}")
            _run(*at_hub, "link", "set", f"member{number}", "master", "bridge", "up")
            within = self.inside(number)
            _run(*within, "ip", "link", "set", "lo", "up")
            _run(*within, "ip", "addr", "add", f"{self.address(number)}/24", "dev", "eth0")
            _run(*within, "ip", "link", "set", "eth0", "up")

    def _link(self, outer: str, namespace: str, name: str) -> None:
        """Make a pair of ends: `outer` out here, `name` in a namespace."""
        inner = f"{self._prefix}i"
        _run("ip", "link", "add", outer, "type", "veth", "peer", "name", inner)
        _run("ip", "link", "set", inner, "netns", namespace, "name", name)

    @property
    def _hub(self) -> str:
        return f"{self._prefix}hub"

    @property
    def _outer(self) -> str:
        """The clients' end, the only one in the machine's own namespace."""
        return f"{self._prefix}o"

    def _take_down(self) -> None:
        if self._prefix:
            _run("ip", "link", "del", self._outer, check=False)
            for name in (*self._namespaces, self._hub):
                _run("ip", "netns", "del", name, check=False)
        self._namespaces.clear()
        self._prefix = ""


def _program(name: str) -> str | None:
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def _run(*command: str, check: bool = True) -> None:
    program = _program(command[0]) or command[0]
    done = subprocess.run(
        [program, *command[1:]], capture_output=True, text=True, timeout=20, check=False
    )
    if check and done.returncode:
        raise NetworkError(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()}")
