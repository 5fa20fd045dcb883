"""The files for Kubernetes: valid, up to date, and in step with the programs that they start."""

import copy
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from penstock.config.load import load_config
from penstock.consumer.__main__ import PRESETS as TRAIN_PRESETS
from penstock.consumer.config import TrainConfig
from penstock.producer.__main__ import PRESETS as PRODUCE_PRESETS
from penstock.producer.config import ProduceConfig
from penstock.telemetry.health import PROBES
from penstock.telemetry.metric_table import PRODUCER, TRAINER
from tests.deploy import crd_schema, manifests
from tests.deploy.manifests import FOLDER, OVERLAYS, RENDERED, Manifest

needs_kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (make observe, or: apt-get install prometheus)"
)
each_overlay = pytest.mark.parametrize("overlay", OVERLAYS)


@pytest.fixture(autouse=True, scope="module")
def _validator() -> None:
    pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed (make setup)")


class Rendered:
    """What an overlay becomes."""

    def __init__(self, overlay: str) -> None:
        self.all = manifests.documents(RENDERED / f"{overlay}.yaml")

    def one(self, kind: str, name: str) -> Manifest:
        (found,) = [one for one in self.all if (one["kind"], one["metadata"]["name"]) == (kind, name)]
        return found

    @property
    def jobset(self) -> Manifest:
        return self.one("JobSet", "penstock")

    @property
    def job(self) -> Manifest:
        (job,) = self.jobset["spec"]["replicatedJobs"]
        return job

    @property
    def trainer(self) -> Manifest:
        """Specification of its pods."""
        return self.job["template"]["spec"]["template"]["spec"]

    @property
    def producer(self) -> Manifest:
        return self.one("Deployment", "penstock-producer")["spec"]["template"]["spec"]


def container(pod: Manifest) -> Manifest:
    (found,) = pod["containers"]
    return found


def env(rendered: Rendered) -> dict[str, str]:
    return {one["name"]: one["value"] for one in container(rendered.trainer)["env"] if "value" in one}


def train_config(arguments: Sequence[str]) -> TrainConfig:
    return load_config(TrainConfig, arguments, preset_dir=TRAIN_PRESETS, prog="", description="")


def produce_config(pod: Manifest) -> ProduceConfig:
    arguments = [word.replace("$(POD_NAME)", "penstock-producer-7c9-x2x") for word in container(pod)["args"]]
    return load_config(ProduceConfig, arguments, preset_dir=PRODUCE_PRESETS, prog="", description="")


# --- valid, and what kubectl says -------------------------------------------------------------------------------------


def test_every_object_is_valid_and_none_is_older_than_its_sources() -> None:
    assert list(manifests.problems()) == []


@needs_kubectl
@each_overlay
def test_what_is_kept_is_what_kubectl_makes_of_the_overlay(overlay: str) -> None:
    assert list(yaml.safe_load_all(manifests.render(overlay))) == Rendered(overlay).all


def test_an_edit_that_was_not_rendered_is_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / "kubernetes")
    monkeypatch.setattr(manifests, "FOLDER", tmp_path / "kubernetes")
    before = manifests.header("gpu")
    assert (RENDERED / "gpu.yaml").read_text().startswith(before)
    (tmp_path / "kubernetes" / "components" / "keda" / "scaledobject.yaml").open("a").write("\n")
    assert manifests.header("gpu") != before


@pytest.mark.parametrize(
    ("kind", "name", "path", "value", "expected"),
    [
        ("Deployment", "penstock-producer", "spec.template.spec.containers.0.livenes", {}, "livenes"),
        ("Deployment", "penstock-producer", "spec.replicas", "two", "two"),
        ("NetworkPolicy", "penstock-trainer", "spec.ingress.0.ports.0.prot", 1, "prot"),
        ("JobSet", "penstock", "spec.network.subDomain", "x", "subDomain"),
        ("JobSet", "penstock", "spec.failurePolicy.restartStrategy", "Sometimes", "Sometimes"),
        ("JobSet", "penstock", "spec.replicatedJobs.0.template.spec.completion", 2, "completion"),
        ("JobSet", "penstock", "spec.replicatedJobs.0.template.spec.template.spec.volumes.0.nam", "x", "nam"),
        ("ScaledObject", "penstock-producer", "spec.maxReplicas", 3, "maxReplicas"),
        ("PodMonitor", "penstock-producer", "spec.podMetricsEndpoints.0.authorization.token", "x", "token"),
    ],
)
def test_a_mistake_is_named(kind: str, name: str, path: str, value: Any, expected: str) -> None:
    manifest = copy.deepcopy(Rendered("gpu").one(kind, name))
    *parents, last = path.split(".")
    at: Any = manifest
    for step in parents:
        at = at[int(step) if step.isdigit() else step]
    at[last] = value
    found = list(manifests.mistakes(manifest))
    assert found
    assert any(expected in text and name in text for text in found), found


def test_a_definition_becomes_a_schema_that_knows_no_other_property() -> None:
    part = {"type": "object", "description": "prose", "properties": {"size": {"x-kubernetes-int-or-string": True}}}
    labels = {"type": "object", "additionalProperties": {"type": "string"}}
    version = {
        "name": "v1",
        "served": True,
        "storage": True,
        "schema": {
            "openAPIV3Schema": {
                "type": "object",
                "properties": {
                    "spec": {"type": "object", "properties": {"part": part, "labels": labels, "pods": part}},
                    "status": {"type": "object"},
                },
            }
        },
    }
    definition = {"spec": {"group": "x.io", "names": {"kind": "X"}, "versions": [version]}}
    schema = crd_schema.convert(definition, "there", ["spec.pods"])
    assert schema["properties"]["apiVersion"] == {"const": "x.io/v1"}
    assert "status" not in schema["properties"]
    assert schema["properties"]["spec"] == {
        "type": "object",
        "properties": {
            "part": {
                "type": "object",
                "properties": {"size": {"type": ["integer", "string"]}},
                "additionalProperties": False,
            },
            "labels": labels,
            "pods": {"type": "object"},
        },
        "additionalProperties": False,
    }


# --- in step with the programs ----------------------------------------------------------------------------------------


@each_overlay
def test_trainers_and_producers_read_their_arguments(overlay: str) -> None:
    rendered = Rendered(overlay)
    train = train_config(container(rendered.trainer)["args"])
    produce = produce_config(rendered.producer)
    assert train.fleet.local_producers == 0
    assert train.stream.keys == "/etc/penstock/keys"
    assert produce.key == "/etc/penstock/key/producer.key"
    ranks = int(env(rendered)["TRAINER_PODS"]) * int(env(rendered)["RANKS_PER_POD"])
    assert train.groups_per_step % ranks == 0


@each_overlay
def test_as_many_pods_are_started_as_ranks_wait_for(overlay: str) -> None:
    rendered = Rendered(overlay)
    job = rendered.job["template"]["spec"]
    pods = int(env(rendered)["TRAINER_PODS"])
    assert (job["completions"], job["parallelism"]) == (pods, pods)
    assert rendered.one("PodDisruptionBudget", "penstock-trainer")["spec"]["minAvailable"] == pods


@each_overlay
def test_producers_dial_the_pod_of_rank_0_by_the_name_that_jobset_gives_it(overlay: str) -> None:
    """JOBSET-REPLICATEDJOB-JOBINDEX-PODINDEX.SUBDOMAIN, as JobSet's documentation has it."""
    rendered = Rendered(overlay)
    subdomain = rendered.jobset["spec"]["network"]["subdomain"]
    host = f"{rendered.jobset['metadata']['name']}-{rendered.job['name']}-0-0.{subdomain}"
    assert produce_config(rendered.producer).connect == f"tcp://{host}:5599"
    assert env(rendered)["SUBDOMAIN"] == subdomain


@each_overlay
def test_probes_ask_what_is_answered_where_it_is_served(overlay: str) -> None:
    rendered = Rendered(overlay)
    asked = {"trainer": {"startupProbe", "readinessProbe"}}
    asked["producer"] = {*asked["trainer"], "livenessProbe"}
    questions = {"startupProbe": "/startupz", "readinessProbe": "/readyz", "livenessProbe": "/healthz"}
    assert set(questions.values()) == PROBES.keys()
    for pod in (rendered.trainer, rendered.producer):
        its = container(pod)
        ports = {port["name"]: port["containerPort"] for port in its["ports"]}
        assert {key for key in its if key.endswith("Probe")} == asked[its["name"]]
        for probe in asked[its["name"]]:
            assert its[probe]["httpGet"] == {"path": questions[probe], "port": "metrics"}
        assert ports["metrics"] == {"trainer": 9400, "producer": 9500}[its["name"]]
    assert produce_config(rendered.producer).metrics == "0.0.0.0:9500"


@each_overlay
def test_a_producer_has_time_to_drain_before_it_is_killed(overlay: str) -> None:
    pod = Rendered(overlay).producer
    # Three seconds for the farewell, and some for what is slow.
    assert pod["terminationGracePeriodSeconds"] >= produce_config(pod).drain_timeout_s + 10


@each_overlay
def test_whatever_is_mounted_exists_or_is_a_secret_of_the_template(overlay: str) -> None:
    rendered = Rendered(overlay)
    there = {(one["kind"], one["metadata"]["name"]) for one in (*rendered.all, *manifests.documents(manifests.SECRETS))}
    for pod in (rendered.trainer, rendered.producer):
        for volume in pod["volumes"]:
            for kind, field, key in (
                ("Secret", "secret", "secretName"),
                ("ConfigMap", "configMap", "name"),
                ("PersistentVolumeClaim", "persistentVolumeClaim", "claimName"),
            ):
                if field in volume:
                    assert (kind, volume[field][key]) in there
            if "secret" in volume:
                assert volume["secret"]["defaultMode"] == 0o400
        mounts = container(pod)["volumeMounts"]
        assert {mount["name"] for mount in mounts} == {volume["name"] for volume in pod["volumes"]}
        assert not any("subPath" in mount for mount in mounts), "a Secret that changes would not be seen"


def test_the_template_of_secrets_has_the_files_that_the_programs_read() -> None:
    files = {one["metadata"]["name"]: set(one["stringData"]) for one in manifests.documents(manifests.SECRETS)}
    assert files == {
        "penstock-trainer-keys": {"trainer.key", "allowed"},
        "penstock-producer-key": {"producer.key"},
        "penstock-metrics": {"token"},
    }


# --- safe -------------------------------------------------------------------------------------------------------------


@each_overlay
def test_no_pod_is_more_than_it_must_be(overlay: str) -> None:
    """The profile `restricted` of Kubernetes' pod security standards, a root that is read-only, and no account."""
    rendered = Rendered(overlay)
    labels = rendered.one("Namespace", "penstock")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    for pod in (rendered.trainer, rendered.producer):
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["securityContext"]["runAsUser"] == pod["securityContext"]["fsGroup"] == 10001
        assert container(pod)["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {"requests", "limits"} <= container(pod)["resources"].keys()
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()


@each_overlay
def test_nobody_talks_but_those_who_must(overlay: str) -> None:
    rendered = Rendered(overlay)
    policies = {one["metadata"]["name"]: one["spec"] for one in rendered.all if one["kind"] == "NetworkPolicy"}
    assert policies["penstock-deny-all"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    ranks = int(env(rendered)["RANKS_PER_POD"])
    to_trainer = policies["penstock-trainer"]["ingress"]
    assert [allowed(rule) for rule in to_trainer] == [
        ("producer", range(5599, 5615)),
        ("trainer", None),
        ("monitoring", range(9400, 9416)),
    ]
    assert {5599 + rank for rank in range(ranks)} <= set(range(5599, 5615))
    assert [allowed(rule) for rule in policies["penstock-trainer"]["egress"]] == [("trainer", None)]
    assert [allowed(rule) for rule in policies["penstock-producer"]["ingress"]] == [("monitoring", range(9500, 9501))]
    assert [allowed(rule) for rule in policies["penstock-producer"]["egress"]] == [("trainer", range(5599, 5615))]
    # Policies choose pods by labels that the pods really have.
    for name, template in (("trainer", rendered.job["template"]["spec"]["template"]), ("producer", None)):
        labels = (template or rendered.one("Deployment", "penstock-producer")["spec"]["template"])["metadata"]["labels"]
        chosen = policies[f"penstock-{name}"]["podSelector"]["matchLabels"]
        assert chosen.items() <= labels.items()
        assert policies["penstock-names"]["podSelector"]["matchLabels"].items() <= labels.items()


def allowed(rule: Mapping[str, Any]) -> tuple[str, range | None]:
    """Who, and at which ports; None for all."""
    (peer,) = rule.get("from") or rule["to"]
    if "namespaceSelector" in peer:
        who = peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
    else:
        who = peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"]
    if "ports" not in rule:
        return who, None
    (port,) = rule["ports"]
    return who, range(port["port"], port.get("endPort", port["port"]) + 1)


# --- watched and scaled -----------------------------------------------------------------------------------------------


def test_prometheus_scrapes_every_rank_and_every_producer_with_the_token() -> None:
    rendered = Rendered("gpu")
    for name, pod in (("trainer", rendered.trainer), ("producer", rendered.producer)):
        endpoints = rendered.one("PodMonitor", f"penstock-{name}")["spec"]["podMetricsEndpoints"]
        named = {port["name"]: port["containerPort"] for port in container(pod)["ports"] if port["name"] != "stream"}
        assert {endpoint["port"] for endpoint in endpoints} == named.keys()
        for endpoint in endpoints:
            assert endpoint["authorization"]["credentials"] == {"name": "penstock-metrics", "key": "token"}
    ranks = int(env(rendered)["RANKS_PER_POD"])
    ports = [port["containerPort"] for port in container(rendered.trainer)["ports"] if port["name"] != "stream"]
    assert ports == list(range(9400, 9400 + ranks))


def scaling_query() -> str:
    (trigger,) = Rendered("gpu").one("ScaledObject", "penstock-producer")["spec"]["triggers"]
    query: str = trigger["metadata"]["query"]
    return query


def test_the_scaler_asks_for_metrics_that_there_are() -> None:
    there = {metric.name for metric in (*TRAINER, *PRODUCER)}
    named = set(re.findall(r"\bpenstock_\w+", scaling_query()))
    assert named == {"penstock_producer_busy_seconds_total", "penstock_data_wait_seconds_total"}
    assert named <= there
    scaled = Rendered("gpu").one("ScaledObject", "penstock-producer")["spec"]
    assert "replicas" not in Rendered("gpu").one("Deployment", "penstock-producer")["spec"]
    assert scaled["triggers"][0]["metadata"]["threshold"] == "1"
    assert scaled["triggers"][0]["metricType"] == "AverageValue"


@needs_promtool
@pytest.mark.parametrize(
    ("busy", "waits", "expected"),
    [
        ([1.0] * 4, [0.0, 0.0], 4.0),  # all work and nobody waits: as it is
        ([1.0] * 4, [0.1, 0.2], 5.0),  # the hungriest rank waits a fifth of its time: a quarter more
        ([0.5] * 4, [0.0, 0.0], 2.0),  # all idle half of their time: half would do
        ([1.0] * 2, [0.98, 0.5], 8.0),  # starved: four times as many, not fifty
        ([], [1.0, 1.0], 0.0),  # nobody there yet: KEDA's minimum
        ([1.0, 1.0], [], 2.0),  # no trainer is scraped: as it is, until they idle
    ],
)
def test_as_many_producers_are_wanted_as_would_leave_no_rank_waiting(
    busy: Sequence[float], waits: Sequence[float], expected: float, tmp_path: Path
) -> None:
    def series(name: str, label: str, rates: Sequence[float]) -> Iterator[dict[str, str]]:
        for number, rate in enumerate(rates):
            labels = f'namespace="penstock",{label}="{number}"'
            yield {"series": f"{name}{{{labels}}}", "values": f"0+{rate * 15}x60"}

    test = {
        "interval": "15s",
        "input_series": [
            *series("penstock_producer_busy_seconds_total", "producer", busy),
            *series("penstock_data_wait_seconds_total", "rank", waits),
        ],
        "promql_expr_test": [
            {
                "expr": f"round({scaling_query()}, 0.001)",
                "eval_time": "10m",
                "exp_samples": [{"labels": "{}", "value": expected}],
            }
        ],
    }
    path = tmp_path / "scaling.test.yaml"
    path.write_text(yaml.safe_dump({"rule_files": [], "evaluation_interval": "15s", "tests": [test]}))
    done = subprocess.run(["promtool", "test", "rules", path], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
