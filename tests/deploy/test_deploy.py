"""What deploy/ names exists: settings, ports, commands and files, in the image, the compose file and the unit."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from cluster import config

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
KNOWN_VARIABLES = {config.ENVIRONMENT_PREFIX + setting.name.upper() for setting in config.settings()}
DEFAULTS = {setting.name: setting.default for setting in config.settings()}


class Unit(configparser.RawConfigParser):
    """A systemd unit: like an INI file, but keys are case-sensitive and may repeat; the values of one are joined by lines."""

    def optionxform(self, optionstr: str) -> str:
        return optionstr


def unit() -> Unit:
    parsed = Unit(strict=False, delimiters=("=",), comment_prefixes=("#",))
    parsed.read(DEPLOY / "moot@.service")
    return parsed


def unit_lines(key: str) -> list[str]:
    return re.findall(rf"^{key}=(.*)$", (DEPLOY / "moot@.service").read_text(), flags=re.MULTILINE)


def compose() -> dict[str, Any]:
    parsed: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return parsed


def instructions(name: str) -> list[str]:
    """Arguments of every such instruction of the Dockerfile, continuation lines joined."""
    text = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ")
    return [match.strip() for match in re.findall(rf"^{name}\s+(.*)$", text, flags=re.MULTILINE)]


def environment_of(service: str) -> dict[str, str]:
    environment: dict[str, str] = compose()["services"][service]["environment"]
    return environment


@pytest.mark.parametrize("service", ["n1", "n2", "n3"])
def test_each_container_has_a_legal_configuration(service: str) -> None:
    node = config.load(DEPLOY / "moot.toml", environment_of(service))
    assert node.node_id == service
    assert len(node.initial_nodes) == node.replication_factor == 3
    assert node.sources()["initial_nodes"] == "environment MOOT_INITIAL_NODES"


def test_containers_agree_on_the_first_nodes_and_are_reached_by_their_service_names() -> None:
    services = compose()["services"]
    lists = {environment_of(service)["MOOT_INITIAL_NODES"] for service in services}
    assert len(lists) == 1
    nodes = [config.InitialNode.parse(text) for text in lists.pop().split(",")]
    assert [node.node_id for node in nodes] == [node.host for node in nodes] == list(services)


def test_no_two_containers_share_a_data_volume() -> None:
    services = compose()["services"]
    mounts = [volume for service in services.values() for volume in service["volumes"]]
    assert len(set(mounts)) == len(services)
    directory = config.load(DEPLOY / "moot.toml", environment_of("n1")).data_dir
    assert {mount.partition(":")[2] for mount in mounts} == {directory} == set(instructions("VOLUME"))
    assert {mount.partition(":")[0] for mount in mounts} == set(compose()["volumes"])


@pytest.mark.parametrize("path", sorted(DEPLOY.iterdir()), ids=lambda path: path.name)
def test_every_variable_is_a_setting(path: Path) -> None:
    used = set(re.findall(r"\bMOOT_[A-Z][A-Z_]*[A-Z]\b", path.read_text()))
    assert used <= KNOWN_VARIABLES


def test_image_exposes_the_ports_that_other_nodes_need() -> None:
    exposed = set(" ".join(instructions("EXPOSE")).split())
    peer, gossip = DEFAULTS["peer_port"], DEFAULTS["gossip_port"]
    assert exposed == {f"{peer}/tcp", f"{gossip}/udp", f"{gossip}/tcp"}


def test_table_of_ports_is_the_defaults() -> None:
    rows = re.findall(r"^\| (\d{4}) \|", (DEPLOY / "README.md").read_text(), flags=re.MULTILINE)
    assert rows == [str(DEFAULTS[name]) for name in ("client_port", "peer_port", "gossip_port")]


def test_image_runs_as_an_ordinary_user_without_the_checkout() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    runtime = text[text.rindex("\nFROM ") :]
    assert instructions("USER") == ["moot"]
    assert "requirements.lock" in text
    assert "COPY cluster" not in runtime


def test_image_copies_only_what_exists() -> None:
    for arguments in instructions("COPY"):
        if arguments.startswith("--from"):
            continue
        for source in arguments.split()[:-1]:
            assert (ROOT / source).exists(), source


def command_exists(arguments: list[str]) -> bool:
    """Whether `moot ARGUMENTS` names a command of the real command line and every option it is given."""
    from cluster.cli.app import app

    command: Any = get_command(app)
    rest = list(arguments)
    while rest and hasattr(command, "commands") and rest[0] in command.commands:
        command = command.commands[rest.pop(0)]
    options = {name for parameter in command.params for name in parameter.opts}
    return not hasattr(command, "commands") and {part for part in rest if part.startswith("--")} <= options


def test_health_check_and_start_are_commands_of_the_command_line() -> None:
    (check,) = instructions("HEALTHCHECK")
    program, *arguments = yaml.safe_load(check[check.index("[") :])
    assert program == "moot"
    assert f"127.0.0.1:{DEFAULTS['client_port']}" in arguments
    assert command_exists(arguments)
    (start,) = instructions("CMD")
    assert command_exists(yaml.safe_load(start))
    assert not command_exists(["no", "such", "command"])


def test_unit_starts_a_node_by_a_command_of_the_command_line() -> None:
    program, *arguments = unit()["Service"]["ExecStart"].split()
    assert program.endswith("/bin/moot")
    assert command_exists(arguments)


def test_unit_configures_a_legal_node() -> None:
    environment = dict(line.replace("%i", "n1").split("=", 1) for line in unit_lines("Environment"))
    node = config.load(None, environment)
    assert node.data_dir == "/var/lib/" + unit()["Service"]["StateDirectory"].replace("%i", node.node_id)


def test_unit_keeps_the_node_down_when_it_keeps_stopping_on_purpose() -> None:
    parsed = unit()
    assert parsed["Service"]["Restart"] == "on-failure"
    window_s = parsed.getint("Unit", "StartLimitIntervalSec")
    restarts = parsed.getint("Unit", "StartLimitBurst")
    assert restarts * parsed.getint("Service", "RestartSec") < window_s


def test_stopping_is_given_the_same_time_everywhere() -> None:
    seconds = unit()["Service"]["TimeoutStopSec"]
    assert {service["stop_grace_period"] for service in compose()["services"].values()} == {f"{seconds}s"}


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    copy = tmp_path / "moot@n1.service"
    text = (DEPLOY / "moot@.service").read_text().replace("/opt/moot/bin/moot", shutil.which("true") or "/bin/true")
    copy.write_text(text.replace("User=moot\nGroup=moot\n", ""))
    run = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(copy)], capture_output=True, text=True, timeout=30, check=False
    )
    assert (run.returncode, [line for line in run.stderr.splitlines() if "moot@n1" in line]) == (0, [])


def test_configuration_samples_of_the_manual_are_legal(tmp_path: Path) -> None:
    first, later = re.findall(r"```toml\n(.*?)```", (DEPLOY / "README.md").read_text(), flags=re.DOTALL)
    nodes = []
    for name, sample in (("n1", first), ("n4", later)):
        path = tmp_path / f"{name}.toml"
        path.write_text(sample)
        nodes.append(config.load(path, {"MOOT_NODE_ID": name, "MOOT_DATA_DIR": f"/var/lib/moot/{name}"}))
    assert [each.host for each in nodes[0].initial_nodes if each.node_id == "n1"] == [nodes[0].host]
    listed = {f"{each.host}:{each.peer_port}" for each in nodes[0].initial_nodes}
    assert set(nodes[1].join) < listed, "a later node joins the cluster of the first sample"
