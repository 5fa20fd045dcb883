"""Producers as actors of a Ray cluster: what is asked of Ray. A real cluster: tests/fleet/test_ray_cluster.py."""

import sys
from typing import Any

import pytest

from penstock.deploy.cli import USAGE, VERBS
from penstock.deploy.ray_fleet import RayConfig, main
from penstock.protocol.errors import ConfigError


def test_the_command_knows_the_verb() -> None:
    assert "ray" in VERBS
    assert "penstock ray" in USAGE


def test_an_address_is_needed() -> None:
    with pytest.raises(ConfigError, match="connect must be the address of a rank"):
        RayConfig()


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"producers": 0}, "producers must be >= 1"),
        ({"gpus": -1.0}, "gpus must be >= 0"),
        ({"cpus": float("inf")}, "cpus must be >= 0"),
        ({"max_restarts": -2}, "max_restarts must be >= -1"),
    ],
)
def test_what_cannot_be_is_refused_by_name(changes: dict[str, Any], what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        RayConfig(connect="tcp://127.0.0.1:5599", **changes)


def test_a_producer_gets_the_address_last() -> None:
    config = RayConfig(connect="tcp://trainer:5599", produce="--config demo --batch-wait-s 0")
    assert config.arguments == ["--config", "demo", "--batch-wait-s", "0", "--connect=tcp://trainer:5599"]
    assert config.produce_config().connect == "tcp://trainer:5599"


def test_devices_are_rays_business() -> None:
    with pytest.raises(ConfigError, match="must not name --devices"):
        RayConfig(connect="tcp://trainer:5599", produce="--backend paced --devices all").produce_config()


def test_a_lack_of_ray_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"penstock ray needs Ray: pip install 'penstock\[ray\]'"):
        main(["--connect", "tcp://127.0.0.1:5599", "--produce=--backend paced"])
