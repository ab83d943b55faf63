"""deploy/compose: valid by the Compose specification, and what it mounts, names and promises is there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_spec import ComposeSpecification, PyCompose
from pydantic import ValidationError

from mover.device.rights import SCSI_MAJORS
from mover.settings import load
from tests.support.source import ROOT

FOLDER = ROOT / "deploy/compose"
TEXT = (FOLDER / "compose.yaml").read_text("utf-8")
TREE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, Any] = TREE["services"]
VARIABLE = re.compile(r"\$\{(\w+)(?:(:?[-?])([^}]*))?\}")


def validate(tree: dict[str, Any]) -> ComposeSpecification:
    return ComposeSpecification.model_validate(tree, extra="forbid")


def filled(text: str) -> str:
    """The text with its variables as they are when .env sets only what it must."""
    return VARIABLE.sub(lambda found: found[3] if found[2] == ":-" else "/value", text)


def mounts(service: dict[str, Any]) -> list[dict[str, Any]]:
    """In the long form, whichever was written."""
    return [
        mount
        if isinstance(mount, dict)
        else dict(zip(("source", "target", "mode"), filled(mount).split(":"), strict=False))
        for mount in service.get("volumes", ())
    ]


def test_it_is_a_compose_file():
    parsed = PyCompose.from_yaml(filled(TEXT))
    parsed.validate_networks()
    parsed.validate_secrets()
    parsed.validate_volumes()
    assert set(validate(yaml.safe_load(filled(TEXT))).services or {}) == {
        "mover",
        "prometheus",
        "alertmanager",
        "grafana",
    }


def test_the_check_can_fail():
    with pytest.raises(ValidationError, match="cap_dropp"):
        validate({"services": {"mover": {**SERVICES["mover"], "cap_dropp": ["ALL"]}}})
    with pytest.raises(Exception, match="secret"):
        PyCompose.from_yaml(filled(TEXT).replace("  grafana_admin_password:\n", "  other:\n")).validate_secrets()


def test_every_variable_is_in_the_example_of_its_file():
    example = (FOLDER / "env.example").read_text("utf-8")
    must = {name for name, operator, _ in VARIABLE.findall(TEXT) if operator in (":?", "?")}
    assert must
    assert all(re.search(rf"^{name}=", example, re.MULTILINE) for name in must)
    others = {name for name, _, _ in VARIABLE.findall(TEXT)} - must
    assert others
    assert [name for name in others if not re.search(rf"^#?{name}=", example, re.MULTILINE)] == []


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_each_service_is_confined_bounded_and_watched(name: str):
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert service["read_only"] is True
    assert service["healthcheck"]["test"][0] == "CMD"
    assert {"mem_limit", "pids_limit"} <= set(service)
    assert service["restart"] == "always", "the only policy that Podman's unit heeds after a reboot"
    assert VARIABLE.match(service["image"]), "an image that .env cannot name"
    if name != "mover":
        assert re.search(r":v?\d+\.\d+\.\d+\}$", service["image"]), "third-party images by version"
    assert "ports" not in service
    listens = [*service.get("command", ()), *service.get("environment", {}).values()]
    assert name == "mover" or any("127.0.0.1" in str(word) for word in listens)


def test_every_file_that_is_mounted_exists_or_is_made_by_the_readme():
    readme = (FOLDER / "README.md").read_text("utf-8")
    sources = [mount["source"] for service in SERVICES.values() for mount in mounts(service)]
    files = [*(path for path in sources if path.startswith(".")), *(s["file"] for s in TREE["secrets"].values())]
    missing = [path for path in files if not (FOLDER / path).exists() and path.removeprefix("./") not in readme]
    assert missing == []


def test_docker_makes_no_folder_of_a_file_that_the_operator_has_yet_to_write():
    """The short form of a mount does so, and a later cp would put the file into that folder."""
    ignored = (FOLDER / ".gitignore").read_text("utf-8").split()
    own = [m for s in SERVICES.values() for m in mounts(s) if m["source"].removeprefix(".") in ignored]
    assert [mount["target"] for mount in own] == ["/etc/mover/mover.yaml"]
    assert all(mount["bind"] == {"create_host_path": False} and mount["read_only"] for mount in own)


def test_the_node_may_open_every_scsi_disk_and_nothing_else():
    assert SERVICES["mover"]["device_cgroup_rules"] == [f"b {major}:* rw" for major in SCSI_MAJORS]
    assert SERVICES["mover"]["cap_add"] == ["SYS_ADMIN"]


def test_settings_and_secrets_are_what_mover_reads(tmp_path: Path):
    for name in SERVICES["mover"]["secrets"]:
        (tmp_path / name).write_text("secret\n")
    settings = load(FOLDER / "mover.yaml.example", environment={"MOVER_SECRETS_DIR": str(tmp_path)})
    assert settings.prism.password.get_secret_value() == "secret"
    assert settings.repository.passphrase.get_secret_value() == "secret"
    assert settings.repository.url in [mount["target"] for mount in mounts(SERVICES["mover"])]
    assert settings.prism.fingerprint is None, "with one that is wrong, mover check cannot say which one is right"


def test_prometheus_finds_the_node_and_the_alertmanager_on_loopback():
    assert all(service["network_mode"] == "host" for service in SERVICES.values())
    config = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text("utf-8"))
    (nodes,) = config["scrape_configs"][0]["file_sd_configs"][0]["files"]
    (managers,) = config["alerting"]["alertmanagers"][0]["file_sd_configs"][0]["files"]
    serve = load(FOLDER / "mover.yaml.example", environment={}).serve
    for path, address in ((nodes, f"{serve.host}:{serve.port}"), (managers, "127.0.0.1:9093")):
        (entry,) = yaml.safe_load((ROOT / "deploy/prometheus" / path).read_text("utf-8"))
        assert entry["targets"] == [address]
    assert "--web.listen-address=127.0.0.1:9093" in SERVICES["alertmanager"]["command"]


def test_grafana_finds_prometheus():
    source = yaml.safe_load((ROOT / "deploy/grafana/provisioning/datasources/prometheus.yml").read_text("utf-8"))
    variable = source["datasources"][0]["url"].removeprefix("$")
    address = SERVICES["grafana"]["environment"][variable].removeprefix("http://")
    assert f"--web.listen-address={address}" in SERVICES["prometheus"]["command"]
