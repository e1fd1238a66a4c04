"""The cluster files for machines that exist, Google Cloud and Kubernetes, as far as they can be checked offline."""

import copy
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from cluster.files.check_file import check_cluster_file
from cluster.files.ray_schema import schema_error
from cluster.files.read import commands_of, storage_of

ROOT = Path(__file__).parents[2]
AWS, LOCAL, GCP = ROOT / "cluster.yaml", ROOT / "cluster" / "local.yaml", ROOT / "cluster" / "gcp.yaml"
KUBERAY = ROOT / "cluster" / "kuberay.yaml"


def load(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text())


@pytest.mark.parametrize("path", [LOCAL, GCP], ids=lambda path: path.stem)
def test_ray_accepts_the_file_and_refuses_it_broken(path):
    config = load(path)
    assert schema_error(config) is None
    assert "max_worker" in (schema_error(config | {"max_worker": 3}) or "")


@pytest.mark.parametrize("path", [LOCAL, GCP], ids=lambda path: path.stem)
def test_the_file_has_the_protections_of_the_one_for_aws(path):
    config, aws = load(path), load(AWS)
    assert config["file_mounts"] == aws["file_mounts"]
    starts = [command for command in commands_of(config) if "ray start" in command]
    assert len(starts) == 2
    assert all(". ~/.wm_environment &&" in start for start in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]
    assert "RAY_enable_autoscaler_v2=0" in starts[0]
    assert config["head_start_ray_commands"][2] == aws["head_start_ray_commands"][2]
    set_ups = [command for command in commands_of(config) if "machine.sh" in command]
    assert set_ups
    assert all("timeout 1800" in set_up for set_up in set_ups)
    assert "CHANGE_ME" in (storage_of(config) or "")


@pytest.mark.parametrize("path", [LOCAL, GCP, KUBERAY], ids=lambda path: path.stem)
def test_the_check_names_each_field_that_is_left_to_change(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    values = [line.partition(" #")[0] for line in path.read_text().splitlines()]
    expected = [
        f"line {number}" for number, value in enumerate(values, 1) if "CHANGE_ME" in value and not value.startswith("#")
    ]
    found = [check.found.partition(":")[0] for check in check_cluster_file(path) if check.name == "fields to change"]
    assert found == expected
    assert 1 <= len(found) <= 3


def test_gpu_machines_of_google_start_a_watchdog_and_end_if_ray_does_not_start():
    config = load(GCP)
    assert "cluster.nodes.watchdog" in config["worker_setup_commands"][0]
    for name, one in config["available_node_types"].items():
        if name != config["head_node_type"]:
            assert "shutdown -h +45" in str(one["node_config"]["metadata"])
            assert one["min_workers"] == 0


def of(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


TEXT, WHOLE = {"type": "string", "minLength": 1}, {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}
TEXTS = {"type": "object", "additionalProperties": TEXT}
NAME = {"type": "string", "pattern": r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"}
"""Of an object, a container and a volume (RFC 1123)."""
QUANTITY = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(m|[kMGTPE]|[KMGTPE]i)?$"}
QUANTITIES = {"type": "object", "additionalProperties": QUANTITY}
CONTAINER = of(
    {
        "name": NAME,
        "image": TEXT,
        "env": {"type": "array", "items": of({"name": TEXT, "value": TEXT}, "name", "value")},
        "resources": of({"requests": QUANTITIES, "limits": QUANTITIES}),
        "volumeMounts": {"type": "array", "items": of({"name": TEXT, "mountPath": TEXT}, "name", "mountPath")},
    },
    "name", "image",
)  # fmt: skip
POD = of(
    {
        "spec": of(
            {
                "containers": {"type": "array", "items": CONTAINER, "minItems": 1},
                "tolerations": {
                    "type": "array",
                    "items": of(
                        {
                            "key": TEXT,
                            "operator": {"enum": ["Exists", "Equal"]},
                            "effect": {"enum": ["NoSchedule", "PreferNoSchedule", "NoExecute"]},
                        }
                    ),
                },
                "volumes": {"type": "array", "items": of({"name": NAME, "emptyDir": TEXTS}, "name")},
            },
            "containers",
        )
    },
    "spec",
)
RAY_JOB = of(
    {
        "apiVersion": {"const": "ray.io/v1"},
        "kind": {"const": "RayJob"},
        "metadata": of({"name": NAME}, "name"),
        "spec": of(
            {
                "entrypoint": TEXT,
                "backoffLimit": WHOLE,
                "activeDeadlineSeconds": WHOLE | {"minimum": 1},
                "shutdownAfterJobFinishes": {"type": "boolean"},
                "ttlSecondsAfterFinished": WHOLE,
                "rayClusterSpec": of(
                    {
                        "rayVersion": TEXT,
                        "authOptions": of({"mode": {"enum": ["disabled", "token"]}}, "mode"),
                        "enableInTreeAutoscaling": {"type": "boolean"},
                        "autoscalerOptions": of(
                            {
                                "idleTimeoutSeconds": WHOLE,
                                "upscalingMode": {"enum": ["Default", "Aggressive", "Conservative"]},
                            }
                        ),
                        "headGroupSpec": of({"rayStartParams": TEXTS, "template": POD}, "rayStartParams", "template"),
                        "workerGroupSpecs": {
                            "type": "array",
                            "items": of(
                                {
                                    "groupName": TEXT,
                                    "replicas": WHOLE,
                                    "minReplicas": WHOLE,
                                    "maxReplicas": WHOLE,
                                    "rayStartParams": TEXTS,
                                    "template": POD,
                                },
                                "groupName", "maxReplicas", "minReplicas", "rayStartParams", "template",
                            ),
                        },
                    },
                    "headGroupSpec",
                ),
            },
            "entrypoint",
        ),
    },
    "apiVersion", "kind", "metadata", "spec",
)  # fmt: skip
"""The fields of a RayJob that the file uses, and no others, by hand: KubeRay's own definition is 1.3 MB. Names, types,
ranges and required fields were compared with its source, ray-operator/apis/ray/v1/rayjob_types.go and
raycluster_types.go of ray-project/kuberay (Apache-2.0; `authOptions` is in 1.5.1 and newer), those of a pod with the
Kubernetes API v1."""


def test_the_job_for_kubernetes_has_fields_of_a_ray_job_only():
    job = load(KUBERAY)
    jsonschema.validate(job, RAY_JOB)
    for change, message in (
        (lambda spec: spec.update(backoffLimits=spec.pop("backoffLimit")), "backoffLimits"),
        (lambda spec: spec.update(activeDeadlineSeconds=0), "less than the minimum"),
        (lambda spec: spec["rayClusterSpec"]["headGroupSpec"].pop("rayStartParams"), "rayStartParams"),
        (lambda spec: spec["rayClusterSpec"].update(authOptions={"mode": "none"}), "none"),
    ):
        wrong = copy.deepcopy(job)
        change(wrong["spec"])
        with pytest.raises(jsonschema.ValidationError, match=message):
            jsonschema.validate(wrong, RAY_JOB)


def test_the_job_for_kubernetes_is_tried_again_and_leaves_no_cluster():
    spec = load(KUBERAY)["spec"]
    assert spec["backoffLimit"] >= 1
    assert spec["shutdownAfterJobFinishes"]
    cluster = spec["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert re.search(rf"==({re.escape(cluster['rayVersion'])})\"", (ROOT / "pyproject.toml").read_text())
    images = {
        container["image"]
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])
        for container in group["template"]["spec"]["containers"]
    }
    assert images == {"CHANGE_ME"}
    assert all(one["minReplicas"] == 0 for one in cluster["workerGroupSpecs"])


def test_the_image_is_built_from_what_the_other_clusters_install_from():
    dockerfile = (ROOT / "cluster" / "Dockerfile").read_text()
    copied = {word for line in dockerfile.splitlines() if line.startswith("COPY") for word in line.split()[2:-1]}
    mounted = {source for source in load(AWS)["file_mounts"].values() if "auth_token" not in source}
    assert copied == mounted
    assert "make gpu" in dockerfile
    assert re.search(r"^FROM python:3\.1[123]-", dockerfile, re.MULTILINE)
