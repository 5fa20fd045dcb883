"""This machine as others see it."""

import socket

import psutil


def outer_host() -> str | None:
    """An IPv4 address of this machine that is not loopback; None where it has none."""
    addresses = (address for of_one in psutil.net_if_addrs().values() for address in of_one)
    hosts = (address.address for address in addresses if address.family == socket.AF_INET)
    return next((host for host in hosts if not host.startswith("127.")), None)
