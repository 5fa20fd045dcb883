"""What a rank opens before torch is loaded: the metrics' address is taken, or refused, before anything is touched."""

import json
import logging
import socket
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest

from penstock.config.address import Address
from penstock.consumer import opening, run_folder
from penstock.consumer.config import FleetConfig, StreamConfig, TrainConfig
from penstock.consumer.making_config import PromptsConfig
from penstock.consumer.opening import Opening, open_run
from penstock.protocol.errors import ConfigError, EndpointError


def _config(path: Path, **settings: Any) -> TrainConfig:
    return TrainConfig(
        run_dir=path,
        groups_per_step=6,
        prompts=PromptsConfig(source="toyworld"),
        stream=StreamConfig(endpoint="tcp://127.0.0.1:0"),
        **settings,
    )


@contextmanager
def _open(config: TrainConfig, rank: int = 0, world_size: int = 1) -> Iterator[Opening]:
    with ExitStack() as stack:
        yield open_run(config, rank, world_size, stack)


@contextmanager
def _taken() -> Iterator[int]:
    """A port where somebody listens, and two above it where nobody does."""
    while True:
        with socket.socket() as listening:
            listening.bind(("127.0.0.1", 0))
            listening.listen()
            port: int = listening.getsockname()[1]
            try:
                for place in (1, 2):
                    with socket.socket() as probe:
                        probe.bind(("127.0.0.1", port + place))
            except OSError:
                continue
            yield port
            return


def test_without_the_setting_nobody_listens(tmp_path: Path) -> None:
    with _open(_config(tmp_path / "run")) as opened:
        assert opened.metrics is None


def test_metrics_are_served_while_torch_still_loads_and_each_rank_has_the_next_port(tmp_path: Path) -> None:
    with _taken() as port:
        config = _config(tmp_path / "run", metrics=str(port))
        with _open(config, 1, 3) as one, _open(config, 2, 3) as two:
            for place, opened in ((1, one), (2, two)):
                assert opened.metrics is not None
                assert opened.metrics.address == Address("127.0.0.1", port + place)
                with urllib.request.urlopen(f"http://127.0.0.1:{port + place}/metrics", timeout=20) as answer:
                    assert b"process_resident_memory_bytes" in answer.read()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port + 1), 5)


def test_metrics_that_others_reach_want_a_token_before_anything_is_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PENSTOCK_METRICS_TOKEN", raising=False)
    config = _config(tmp_path / "run", metrics="0.0.0.0:0")
    with (
        pytest.raises(ConfigError, match=r"metrics: others can reach .*, so it wants a token"),
        _open(config),
    ):
        pass
    assert not (tmp_path / "run").exists()
    monkeypatch.setenv("PENSTOCK_METRICS_TOKEN", "prometheus-knows-it")
    with _open(config) as opened:
        assert opened.metrics is not None
        url = f"http://127.0.0.1:{opened.metrics.address.port}/metrics"
        with pytest.raises(HTTPError, match="401"):
            urllib.request.urlopen(url, timeout=20)
        request = urllib.request.Request(url, headers={"Authorization": "Bearer prometheus-knows-it"})
        with urllib.request.urlopen(request, timeout=20) as answer:
            assert b"process_resident_memory_bytes" in answer.read()


def test_the_run_s_own_producers_are_told_who_may_read_their_metrics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []

    class Fleet(ExitStack):
        def __init__(self, *arguments: Any, key: str, access: Any) -> None:
            super().__init__()
            given.append(access)

    monkeypatch.setattr(opening, "LocalFleet", Fleet)
    monkeypatch.delenv("PENSTOCK_METRICS_TOKEN", raising=False)
    file = tmp_path / "token"
    file.write_text("prometheus-knows-it")
    file.chmod(0o600)
    fleet = FleetConfig(local_producers=1)
    with _open(_config(tmp_path / "one", fleet=fleet, metrics="0.0.0.0:0", metrics_token_file=str(file))):
        pass
    with _open(_config(tmp_path / "two", fleet=fleet, metrics="0.0.0.0:0", metrics_insecure=True)):
        pass
    assert given == [["--metrics-token-file", str(file)], ["--metrics-insecure"]]


def test_an_address_in_use_costs_no_earlier_run(tmp_path: Path) -> None:
    path = tmp_path / "run"
    before = run_folder.prepare(path, overwrite=False, resume=False).run_id
    with (
        _taken() as port,
        pytest.raises(EndpointError, match=f"metrics: cannot listen at 127.0.0.1, port {port}: Address already in use"),
        _open(_config(path, metrics=f"127.0.0.1:{port}", overwrite=True)),
    ):
        pass
    assert json.loads((path / "run.json").read_text())["run_id"] == before


def test_a_token_that_the_user_has_chosen_stands_in_no_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PENSTOCK_DASHBOARD_TOKEN", "known-to-few-people")
    with caplog.at_level(logging.INFO, "penstock"), _open(_config(tmp_path / "run", dashboard="0")) as opened:
        assert opened.dashboard is not None
        assert opened.dashboard.url.endswith("/?token=known-to-few-people")
        address = opened.dashboard.address.url
        assert f"the run's page is at {address}/?token=$PENSTOCK_DASHBOARD_TOKEN" in caplog.messages
    assert "known-to-few-people" not in caplog.text


def test_ports_that_end_cost_no_earlier_run(tmp_path: Path) -> None:
    path = tmp_path / "run"
    before = run_folder.prepare(path, overwrite=False, resume=False).run_id
    config = _config(path, metrics="65535", overwrite=True, fleet=FleetConfig(local_producers=1))
    with pytest.raises(ConfigError, match="beyond 65535"), _open(config):
        pass
    assert json.loads((path / "run.json").read_text())["run_id"] == before


def test_the_run_s_own_producers_take_the_free_ports_above_the_ranks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []

    class Fleet(ExitStack):
        def __init__(self, *arguments: Any, **who: Any) -> None:
            super().__init__()
            given.append(arguments[4])

    monkeypatch.setattr(opening, "LocalFleet", Fleet)
    with _taken() as port:
        # Two ranks; somebody else listens where the first producer would.
        fleet = FleetConfig(local_producers=2)
        with _open(_config(tmp_path / "run", metrics=str(port - 2), fleet=fleet), 0, 2):
            pass
    [addresses] = given
    assert addresses == [Address("127.0.0.1", port + 1), Address("127.0.0.1", port + 2)]


def test_the_ports_of_a_gate_count_up_and_the_run_s_own_producers_need_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = []

    @contextmanager
    def local_fleet(config: FleetConfig, endpoint: str, *rest: object, **more: object) -> Iterator[None]:
        told.append(endpoint)
        yield None

    monkeypatch.setattr(opening, "LocalFleet", local_fleet)
    stream = StreamConfig(endpoint="tcp://*:0", insecure=True, advertise="gate.example.org:31000")
    config = replace(_config(tmp_path / "run", fleet=FleetConfig(local_producers=1)), stream=stream)
    with _open(config, 0, 3) as first, _open(config, 1, 3) as second:
        assert first.socket.endpoint == "tcp://gate.example.org:31000"
        assert second.socket.endpoint == "tcp://gate.example.org:31001"
    assert len(told) == 1
    assert told[0].startswith("tcp://127.0.0.1:")
