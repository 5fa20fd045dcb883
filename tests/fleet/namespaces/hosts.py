"""Machines of one network on this machine: each has a name, a hosts file and a network of its own, joined by a switch.

Nothing here has a name outside. A namespace is there as long as a process is in it, the one that holds it reads its
standard input, and that closes when whoever started it has gone, however it went.
"""

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

ROOT = Path(__file__).resolve().parents[3]
_END_S = 10.0
IPV4, IPV6 = 4, 6


def address(number: int, family: int = IPV4) -> str:
    """Of the machine with this number."""
    return f"fd77::{number}" if family == IPV6 else f"10.77.0.{number}"


def lacking() -> str:
    """Why no such machines can be made here; empty where they can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    missing = [program for program in ("ip", "tc", "unshare", "nsenter") if shutil.which(program) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    tried = subprocess.run(
        ["unshare", "--net", "sh", "-c", "ip link add br0 type bridge && ip link add port0 type veth peer name port1"],
        capture_output=True,
        text=True,
        check=False,
    )
    return f"this kernel gives no network of one's own: {tried.stderr.strip()}" if tried.returncode else ""


class Host:
    """One machine.

    Args:
        name: its host name.
        folder: for its hosts file.
        names: addresses by name, as its hosts file has them.
    """

    def __init__(self, name: str, folder: Path, names: Mapping[str, Sequence[str]]) -> None:
        self.name = name
        hosts = folder / f"{name}.hosts"
        lines = ["127.0.0.1 localhost", "::1 localhost"]
        lines += [f"{at} {host}" for host, addresses in names.items() for at in addresses]
        hosts.write_text("\n".join([*lines, ""]))
        begin = f"hostname {name} && mount --bind {hosts} /etc/hosts && ip link set lo up && echo here && exec cat"
        self._holder = subprocess.Popen(
            ["unshare", "--net", "--uts", "--mount", "--propagation", "private", "sh", "-c", begin],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        assert self._holder.stdout is not None
        said = self._holder.stdout.readline()
        if said != "here\n":
            self.close()
            raise RuntimeError(f"no machine {name}: {said}")

    @property
    def pid(self) -> int:
        """Of the process that holds its namespaces."""
        return self._holder.pid

    @property
    def inside(self) -> tuple[str, ...]:
        """What starts a command on it, and becomes that."""
        return ("nsenter", f"--target={self.pid}", "--net", "--uts", "--mount", f"--wd={ROOT}", "--")

    def run(self, *command: str) -> str:
        """What a command that ends at once says."""
        done = subprocess.run([*self.inside, *command], capture_output=True, text=True, timeout=_END_S, check=False)
        if done.returncode:
            raise RuntimeError(f"{self.name}: {' '.join(command)}: {done.stderr.strip()}")
        return done.stdout

    def limit(self, bits_per_s: int) -> None:
        """What it sends goes no faster than this."""
        pace = ["rate", f"{bits_per_s}bit", "burst", "16kb", "latency", "400ms"]
        self.run("tc", "qdisc", "replace", "dev", "eth0", "root", "tbf", *pace)

    def close(self) -> None:
        """Let it go: it ends with the last process in it."""
        assert self._holder.stdin is not None
        self._holder.stdin.close()
        try:
            self._holder.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._holder.kill()
            self._holder.wait()
        if self._holder.stdout is not None:
            self._holder.stdout.close()


class Network:
    """Machines on one switch, numbered from 1 in the order of their names.

    Args:
        folder: for their hosts files.
        machines: their names.
        names: more entries of the hosts files, beside each machine's own.
    """

    def __init__(self, folder: Path, machines: Sequence[str], names: Mapping[str, Sequence[str]] | None = None) -> None:
        self._numbers = {name: number for number, name in enumerate(machines, start=1)}
        known = {name: (address(number), address(number, IPV6)) for name, number in self._numbers.items()}
        self._hosts: dict[str, Host] = {}
        try:
            self._switch = self._hosts["switch"] = Host("switch", folder, {})
            # Ports that learn for half a minute first would look like links that are cut.
            bridge = "ip link add br0 type bridge forward_delay 0 mcast_snooping 0 && ip link set br0 up"
            self._switch.run("sh", "-c", bridge)
            for name in machines:
                self._hosts[name] = Host(name, folder, known | dict(names or {}))
                self._plug(self._hosts[name])
        except BaseException:
            self.close()
            raise

    def _plug(self, host: Host) -> None:
        number = self._numbers[host.name]
        port = f"port{number}"
        self._switch.run("ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", str(host.pid))
        self._switch.run("ip", "link", "set", port, "master", "br0", "up")
        host.run("ip", "addr", "add", f"{address(number)}/24", "dev", "eth0")
        # Without `nodad` it takes seconds until an IPv6 address may be used.
        host.run("ip", "addr", "add", f"{address(number, IPV6)}/64", "dev", "eth0", "nodad")
        host.run("ip", "link", "set", "eth0", "up")

    def __getitem__(self, name: str) -> Host:
        return self._hosts[name]

    def cut(self, name: str) -> None:
        """Unplug a machine's cable."""
        self._switch.run("ip", "link", "set", f"port{self._numbers[name]}", "down")

    def heal(self, name: str) -> None:
        """Plug it in again."""
        self._switch.run("ip", "link", "set", f"port{self._numbers[name]}", "up")

    def close(self) -> None:
        """Let all of them go."""
        for host in self._hosts.values():
            host.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
