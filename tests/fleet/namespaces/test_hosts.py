"""The machines of these tests are apart from each other and from this one, and nothing of them is left."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.programs import wait_until
from tests.fleet.namespaces.hosts import IPV4, IPV6, ROOT, Network, address

pytestmark = [pytest.mark.fleet, pytest.mark.long]

PROGRAM = """
import pathlib, sys
from tests.fleet.namespaces.hosts import Network
network = Network(pathlib.Path(sys.argv[1]), ("a", "b"))
print(*(network[name].pid for name in ("switch", "a", "b")), flush=True)
sys.stdin.read()
"""


def networks() -> set[str]:
    """The network namespaces in which there is a process."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            found.add(os.readlink(folder / "ns" / "net"))
        except OSError:
            continue  # it has ended meanwhile
    return found


def test_each_machine_has_a_name_and_an_address_that_the_others_reach(network: Network) -> None:
    assert network["ann"].run("hostname") == "ann\n"
    for family, kind in ((IPV4, "AF_INET"), (IPV6, "AF_INET6")):
        dial = f"import socket; print(socket.socket(socket.{kind}).connect_ex(({address(1, family)!r}, 1)))"
        assert network["ann"].run(sys.executable, "-c", dial) == f"{errno.ECONNREFUSED}\n", "it is there and says no"
    links = network["ann"].run("ip", "-brief", "link").split("\n")
    assert [line.partition("@")[0].split()[0] for line in links if line] == ["lo", "eth0"]
    assert "bob" not in Path("/etc/hosts").read_text(), "this machine's own file is as it was"


@pytest.mark.usefixtures("network")
def test_the_machines_are_gone_when_whoever_made_them_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "more"
    folder.mkdir()
    links_before = os.listdir("/sys/class/net")
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(folder)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        pids = process.stdout.readline().split()
        made = {os.readlink(f"/proc/{pid}/ns/net") for pid in pids}
        assert len(made) == 3
        assert made <= networks()
    finally:
        process.kill()
        process.communicate()
    wait_until(lambda: made.isdisjoint(networks()), "their namespaces are gone", within_s=10)
    assert os.listdir("/sys/class/net") == links_before
