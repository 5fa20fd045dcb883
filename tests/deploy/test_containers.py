"""The files for containers: valid, in step with the programs that they start, and of what they copy."""

import re
import shutil
import subprocess
import tomllib
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

from penstock.config.load import load_config
from penstock.consumer.__main__ import PRESETS as TRAIN_PRESETS
from penstock.consumer.config import TrainConfig
from penstock.deploy.cli import VERBS
from penstock.deploy.containers.absent import absent
from penstock.deploy.containers.requirements import requirements
from penstock.producer.__main__ import PRESETS as PRODUCE_PRESETS
from penstock.producer.config import ProduceConfig
from penstock.telemetry.health import PROBES

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "containers"
COMPOSE = FOLDER / "compose.yaml"
GPU = FOLDER / "compose.gpu.yaml"
DOCKERFILES = sorted(FOLDER.glob("*.Dockerfile"))
PROMETHEUS = ROOT / "deploy" / "prometheus" / "containers.yaml"
PROVISIONING = ROOT / "deploy" / "grafana" / "provisioning"

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (make observe, or: apt-get install prometheus)"
)


def compose(path: Path = COMPOSE) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text())
    return found


def services(*paths: Path) -> dict[str, dict[str, Any]]:
    """Of a file and of others over it, as far as we use it: a mapping takes the other's keys, a command is replaced."""
    merged: dict[str, dict[str, Any]] = {}
    for path in paths or (COMPOSE,):
        for name, service in compose(path)["services"].items():
            for key, value in service.items():
                mine = merged.setdefault(name, {}).get(key)
                if isinstance(mine, list) and key == "volumes":
                    value = [*mine, *value]
                merged[name][key] = {**mine, **value} if isinstance(mine, dict) else value
    return merged


def train_config(command: Sequence[str]) -> TrainConfig:
    assert command[0] == "train"
    return load_config(TrainConfig, command[1:], preset_dir=TRAIN_PRESETS, prog="", description="")


def produce_config(command: Sequence[str]) -> ProduceConfig:
    assert command[0] == "produce"
    return load_config(ProduceConfig, command[1:], preset_dir=PRODUCE_PRESETS, prog="", description="")


# --- compose ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("files", [(COMPOSE,), (COMPOSE, GPU)], ids=["cpu", "gpu"])
def test_trainer_and_producers_read_their_commands_and_find_each_other(files: tuple[Path, ...]) -> None:
    found = services(*files)
    train, produce = train_config(found["trainer"]["command"]), produce_config(found["producer"]["command"])
    assert train.stream.endpoint == "tcp://*:5599"
    assert produce.connect == f"tcp://{train.stream.advertise}:5599"
    assert train.stream.advertise in found, "the name of its service"
    assert train.fleet.local_producers == 0
    mounted = {name: {part.split(":")[1] for part in one["volumes"]} for name, one in found.items() if "volumes" in one}
    assert train.stream.keys in mounted["trainer"]
    assert str(Path(produce.key).parent) in mounted["producer"]
    assert any(train.run_dir.is_relative_to(folder) for folder in mounted["trainer"])
    assert "/keys" not in mounted["producer"], "a producer has its own key and no other"


def test_keys_are_made_once_before_anybody_needs_them(tmp_path: Path) -> None:
    """The service's own command, with its folders elsewhere, twice."""
    found = services()
    for name in ("trainer", "producer"):
        assert found[name]["depends_on"] == {"keys": {"condition": "service_completed_successfully"}}
    (script,) = found["keys"]["command"]
    for folder in ("/keys", "/producer-key"):
        (tmp_path / folder[1:]).mkdir(mode=0o700)
        script = re.sub(rf"(?<![\w/]){folder}\b", f"{tmp_path}{folder}", script)
    # As `penstock keys` in this interpreter: the command may not be installed.
    told: list[list[str]] = []
    for _ in range(2):
        for line in script.strip().splitlines():
            file, command = re.fullmatch(r"\[ -e (\S+) \] \|\| penstock (.*)", line).groups()  # type: ignore[union-attr]
            if not Path(file).exists():
                verb, *arguments = command.split()
                told.append(arguments)
                assert VERBS[verb](arguments) == 0
    assert [arguments[0] for arguments in told] == ["init", "add"]
    assert {path.name for path in (tmp_path / "producer-key").iterdir()} == {"producer.key"}
    assert (tmp_path / "keys" / "trainer.key").is_file()


def test_a_container_is_stopped_later_than_its_producer_has_drained() -> None:
    producer = services()["producer"]
    assert (
        int(producer["stop_grace_period"].removesuffix("s")) >= produce_config(producer["command"]).drain_timeout_s + 10
    )


def test_containers_that_work_are_locked_and_only_loopback_is_published() -> None:
    for name, service in services().items():
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), name
        if "build" in service:
            assert service["read_only"] is True
            assert service["cap_drop"] == ["ALL"]
            assert service["security_opt"] == ["no-new-privileges:true"]


def test_health_checks_ask_what_is_answered_where_it_is_served() -> None:
    found = services()
    metrics = {
        "trainer": train_config(found["trainer"]["command"]).metrics,
        "producer": produce_config(found["producer"]["command"]).metrics,
    }
    for name, served in metrics.items():
        code = found[name]["healthcheck"]["test"][-1]
        port, path = re.search(r"http://127\.0\.0\.1:(\d+)(/\w+)", code).groups()  # type: ignore[union-attr]
        assert path in PROBES
        assert served.endswith(f":{port}")
        compile(code, name, "exec")


def test_prometheus_scrapes_the_services_and_knows_the_alerts() -> None:
    config = yaml.safe_load(PROMETHEUS.read_text())
    assert (PROMETHEUS.parent / config["rule_files"][0]).is_file()
    found = services()
    for job in config["scrape_configs"]:
        (discovery,) = job["dns_sd_configs"]
        (name,) = discovery["names"]
        read = train_config if name == "trainer" else produce_config
        assert read(found[name]["command"]).metrics.endswith(f":{discovery['port']}")  # type: ignore[operator]
    source, at = found["prometheus"]["volumes"][0].removesuffix(":ro").split(":")
    assert (FOLDER / source).resolve() == PROMETHEUS.parent
    assert f"--config.file={at}/{PROMETHEUS.name}" in found["prometheus"]["command"]


@needs_promtool
def test_prometheus_takes_its_configuration() -> None:
    done = subprocess.run(
        ["promtool", "check", "config", PROMETHEUS], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_grafana_is_given_our_dashboard_and_its_source() -> None:
    grafana = services()["grafana"]
    mounts = dict(mount.removesuffix(":ro").split(":") for mount in grafana["volumes"] if mount.endswith(":ro"))
    assert all((FOLDER / source).exists() for source in mounts)
    at = {(FOLDER / source).resolve(): target for source, target in mounts.items()}
    assert at[PROVISIONING] == "/etc/grafana/provisioning"
    (provider,) = yaml.safe_load((PROVISIONING / "dashboards" / "penstock.yaml").read_text())["providers"]
    dashboard = at[ROOT / "deploy" / "grafana" / "penstock.json"]
    assert str(Path(dashboard).parent) == provider["options"]["path"]
    assert grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] == dashboard
    (source,) = yaml.safe_load((PROVISIONING / "datasources" / "penstock.yaml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert source["jsonData"]["manageAlerts"] is True


@pytest.mark.parametrize("path", [COMPOSE, GPU], ids=["cpu", "gpu"])
def test_the_files_are_of_the_compose_specification(path: Path) -> None:
    checker = shutil.which("check-jsonschema")
    if checker is None:
        pytest.skip("check-jsonschema is not installed (make setup)")
    command = [checker, "--builtin-schema", "vendor.compose-spec", path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout


# --- images -----------------------------------------------------------------------------------------------------------


def test_the_linter_of_dockerfiles_is_content() -> None:
    hadolint = shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not installed (make setup)")
    done = subprocess.run([hadolint, *DOCKERFILES], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_an_image_has_a_fixed_base_and_runs_as_nobody(path: Path) -> None:
    text = path.read_text()
    bases = re.findall(r"^FROM (\S+)", text, re.MULTILINE)
    assert all(re.fullmatch(r"\S+:\d+\.\d+\S*", base) for base in bases)
    assert re.findall(r"^USER (.*)$", text, re.MULTILINE) == ["10001:10001"]
    assert '\nENTRYPOINT ["tini", "--", "penstock"]\n' in text
    for source in re.findall(r"^COPY (?!--from)(.*)$", text, re.MULTILINE):
        for name in source.split()[:-1]:
            assert (ROOT / name).exists()
            assert name == "." or is_in_context(name)


def is_in_context(name: str) -> bool:
    """Whether .dockerignore leaves a file in: the last pattern that fits it, or a folder of it, decides."""
    parts = Path(name).parts
    folders = ["/".join(parts[: depth + 1]) for depth in range(len(parts))]
    kept = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.strip().removeprefix("!").removeprefix("**/")
        if pattern and not line.startswith("#") and any(fnmatch(folder, pattern) for folder in folders):
            kept = line.startswith("!")
    return kept


def test_an_image_is_made_of_the_packages_and_of_nothing_else() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    folders = {folder.partition("/")[0] for folder in project["tool"]["setuptools"]["package-dir"].values()}
    for name in (*folders, "pyproject.toml", project["project"]["readme"], *project["project"]["license-files"]):
        assert is_in_context(name), name
    for name in (".git", ".venv", "runs/demo", "tests", "keys/trainer.key", "trainer.key", "docs", ".env"):
        assert not is_in_context(name), name
    assert is_in_context("producer/tiny_sd/unet/config.json")


def test_the_layer_of_requirements_is_what_the_project_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = requirements(ROOT / "pyproject.toml", ["data", "nvml"])
    assert found[: len(project["dependencies"])] == project["dependencies"]
    assert set(found) == {
        *project["dependencies"],
        *project["optional-dependencies"]["data"],
        *(line for line in project["optional-dependencies"]["gpu"] if "nvidia-ml-py" in line),
    }
    with pytest.raises(KeyError):
        requirements(ROOT / "pyproject.toml", ["dta"])


def test_what_a_base_image_brings_is_not_replaced() -> None:
    lines = [
        "# direct",
        "torch==2.13.0",
        "msgpack==1.2.4  # a reason",
        "",
        "typing-extensions==4.16.0",
        "PyYAML==6.0.3",
        "kornia-rs==0.2.0",
    ]
    assert absent(lines, ["Torch", "typing_extensions", "kornia.rs", "pyyaml"]) == ["msgpack==1.2.4"]
    assert absent((ROOT / "constraints.txt").read_text().splitlines(), []) != []
    with pytest.raises(ValueError, match="not NAME==VERSION: torch>=2"):
        absent(["torch>=2"], [])
