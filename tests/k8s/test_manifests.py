"""The manifests in `k8s/`: they fit together, and the router understands its command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from router_py import _core

FOLDER = Path(__file__).parents[2] / "k8s"


def objects(file: str) -> dict[str, Any]:
    """By kind."""
    loaded = yaml.safe_load_all((FOLDER / file).read_text())
    return {item["kind"]: item for item in loaded}


def test_the_router_may_read_pods_and_nothing_else() -> None:
    found = objects("router-rbac.yaml")
    reading = {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}
    assert found["Role"]["rules"] == [reading]
    account = found["ServiceAccount"]["metadata"]["name"]
    assert found["RoleBinding"]["subjects"] == [{"kind": "ServiceAccount", "name": account}]
    assert found["RoleBinding"]["roleRef"]["name"] == found["Role"]["metadata"]["name"]
    deployment = objects("router.yaml")["Deployment"]
    assert deployment["spec"]["template"]["spec"]["serviceAccountName"] == account


def test_the_routers_command_line_is_valid() -> None:
    deployment = objects("router.yaml")["Deployment"]
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    argv = [arg.replace("$(NAMESPACE)", "production") for arg in container["args"]]
    config = json.loads(_core.parse_args(argv, container["command"][0]))
    assert config["service_discovery"] is True
    assert config["selector"] == ["app=worker"]
    assert config["service_discovery_namespace"] == "production"
    assert config["host"] == "0.0.0.0"
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"http": config["port"], "metrics": config["prometheus_port"]}
    annotations = deployment["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(config["prometheus_port"])


def test_the_service_finds_the_routers_pods() -> None:
    found = objects("router.yaml")
    template = found["Deployment"]["spec"]["template"]
    assert found["Service"]["spec"]["selector"] == template["metadata"]["labels"]
    assert found["Deployment"]["spec"]["selector"]["matchLabels"] == template["metadata"]["labels"]
    (port,) = found["Service"]["spec"]["ports"]
    names = [port["name"] for port in template["spec"]["containers"][0]["ports"]]
    assert port["targetPort"] == "http"
    assert "http" in names
