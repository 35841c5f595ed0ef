"""deploy/compose.yaml and deploy/Dockerfile, as far as that can be told without a container engine: what they hold, and what they name."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from ruamel.yaml import YAML

from mes import cli

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
TEXT = (DEPLOY / "compose.yaml").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = YAML(typ="safe").load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
ONCE = {"migrate", "seed"}
PUBLISHED = {"broker", "board", "grafana"}
VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")

each_service = pytest.mark.parametrize("name", SERVICES)


def resolved(text: str) -> str:
    """With the defaults of its variables, as without an .env file."""
    return VARIABLE.sub(lambda found: found[2], text)


def commands(group: click.Group) -> Iterator[click.Command]:
    """Every command of the program, groups included."""
    yield group
    for command in group.commands.values():
        if isinstance(command, click.Group):
            yield from commands(command)
        else:
            yield command


def known_variables() -> set[str]:
    """The environment twins of all flags."""
    names: set[str] = set()
    for command in commands(cli.main):
        for parameter in command.params:
            given = parameter.envvar or ()
            names |= {given} if isinstance(given, str) else set(given)
    return names


def test_it_follows_the_schema_of_compose() -> None:
    done = subprocess.run(
        [Path(sys.executable).parent / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", DEPLOY / "compose.yaml"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@each_service
def test_a_service_has_no_rights_and_writes_nowhere_but_where_it_must(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert "privileged" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["init"] is True
    user = service["user"].partition(":")[0]
    assert user.isdecimal()
    assert user != "0"
    assert not {"network_mode", "pid", "ipc", "devices", "env_file", "extends", "container_name"} & set(service)
    for mount in service["tmpfs"]:
        options = mount.partition(":")[2].split(",")
        assert {"noexec", "nosuid", "nodev"} <= set(options), mount
        assert any(option.startswith("size=") for option in options), mount


@each_service
def test_a_service_is_limited(name: str) -> None:
    service = SERVICES[name]
    limits = service["deploy"]["resources"]["limits"]
    assert float(limits["cpus"]) <= 4
    assert re.fullmatch(r"\d+[MG]", resolved(limits["memory"]))
    assert 0 < limits["pids"] <= 256
    assert service["logging"]["options"].keys() >= {"max-size", "max-file"}


@each_service
def test_an_image_is_pinned_and_names_no_registry(name: str) -> None:
    image = resolved(SERVICES[name]["image"])
    repository, _, tag = image.partition(":")
    assert re.match(r"\d+\.\d+\.\d+", tag), image
    assert "latest" not in tag
    assert "." not in repository.partition("/")[0]


@each_service
def test_a_service_says_whether_it_is_well_and_starts_again(name: str) -> None:
    service = SERVICES[name]
    if name in ONCE:
        assert service["restart"] == "no"
        assert service["healthcheck"] == {"disable": True}
        return
    assert service["restart"] == "unless-stopped"
    check = service["healthcheck"]
    assert check["test"][0] == "CMD", "without a shell"
    assert check.keys() >= {"interval", "timeout", "retries", "start_period"}
    assert "stop_grace_period" in service
    if check["test"][1] == "python":
        compile(check["test"][3], name, "exec")


@each_service
def test_secrets_come_as_files_only(name: str) -> None:
    service = SERVICES[name]
    granted = {each if isinstance(each, str) else each["source"] for each in service.get("secrets", [])}
    mounted = {f"/run/secrets/{each}" for each in service.get("secrets", []) if isinstance(each, str)}
    assert granted <= set(COMPOSE["secrets"])
    for variable, text in service.get("environment", {}).items():
        assert not re.search(r"://[^/@]*:[^/@]*@", str(text)), variable
        if re.search("PASSWORD|SECRET|KEY|TOKEN", variable):
            assert variable.endswith("_FILE") or variable == "MES_BROKER_KEY"
            assert str(text) in mounted, variable
        elif "/run/secrets/" in str(text):
            assert text in mounted, variable
    roles = granted & {"postgres", "mes_owner", "mes_ingest", "mes_rollup", "mes_dashboard"}
    assert name == "database" or len(roles) <= 1, "each service is one role"


def test_every_secret_is_used_lies_in_the_folder_and_is_in_no_git() -> None:
    used = {each if isinstance(each, str) else each["source"] for service in SERVICES.values() for each in service.get("secrets", [])}
    assert used == set(COMPOSE["secrets"])
    for secret in COMPOSE["secrets"].values():
        assert set(secret) == {"file"}
        assert secret["file"].startswith("./secrets/")
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert {"deploy/secrets/", "deploy/pki/", "deploy/.env"} <= set(ignored)
    assert not list(DEPLOY.rglob("*.key")) or (DEPLOY / "secrets").exists() or (DEPLOY / "pki").exists()


@each_service
def test_what_is_mounted_is_there_and_cannot_be_written(name: str) -> None:
    for mount in SERVICES[name].get("volumes", []):
        source, target, *options = resolved(mount).split(":")
        if source in COMPOSE["volumes"]:
            assert options == []
            continue
        assert options == ["ro"], mount
        assert (DEPLOY / source).exists(), mount
        assert target.startswith("/")


@each_service
def test_only_what_is_meant_to_be_reached_is_published(name: str) -> None:
    service = SERVICES[name]
    inner = {network for network, options in COMPOSE["networks"].items() if options.get("internal")}
    assert inner == {"data", "messages"}
    assert set(service["networks"]) <= set(COMPOSE["networks"])
    assert bool(service.get("ports")) == (name in PUBLISHED)
    assert (set(service["networks"]) <= inner) == (name not in PUBLISHED), "a service that is not published has no way out"
    for port in service.get("ports", []):
        address, outer, inside = resolved(port).split(":")
        assert outer == inside
        assert address == ("0.0.0.0" if name == "broker" else "127.0.0.1")
    assert name != "broker" or [resolved(port) for port in service["ports"]] == ["0.0.0.0:8883:8883"]


def test_each_waits_for_what_it_needs() -> None:
    waits = {name: {to: how["condition"] for to, how in service.get("depends_on", {}).items()} for name, service in SERVICES.items()}
    done, healthy = "service_completed_successfully", "service_healthy"
    assert waits == {
        "database": {},
        "broker": {},
        "migrate": {"database": healthy},
        "seed": {"migrate": done},
        "ingest": {"seed": done, "database": healthy, "broker": healthy},
        "rollup": {"seed": done, "database": healthy, "broker": healthy},
        "board": {"migrate": done, "database": healthy},
        "grafana": {"migrate": done, "database": healthy},
    }
    assert SERVICES["ingest"]["deploy"]["replicas"] == 2


@pytest.mark.parametrize("name", [name for name, service in SERVICES.items() if "build" in service])
def test_a_command_is_one_of_the_programs_with_settings_that_it_knows(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    service = SERVICES[name]
    for variable in [variable for variable in os.environ if variable.startswith("MES_")]:
        monkeypatch.delenv(variable)
    for variable, text in service["environment"].items():
        assert variable in known_variables(), variable
        monkeypatch.setenv(variable, resolved(str(text)))
    above = cli.main.make_context("mes", list(service["command"]))
    word, command, rest = cli.main.resolve_command(above, list(service["command"]))
    assert command is not None
    command.make_context(word, rest, parent=above)  # raises where a flag or the value of a variable is wrong
    assert "entrypoint" not in service


def test_every_variable_is_in_the_example_with_its_default() -> None:
    used = dict(VARIABLE.findall(TEXT))
    example = dict(re.findall(r"^#(\w+)=(.*)$", (DEPLOY / ".env.example").read_text(), re.MULTILINE))
    assert used == example
    assert "${" not in VARIABLE.sub("", TEXT), "each has a default"


def test_the_settings_of_the_broker_differ_only_in_where_it_writes(tmp_path: Path) -> None:
    """The container's command is run but for its last step."""
    conf = DEPLOY / "mosquitto" / "mosquitto.conf"
    shell, flag, line = SERVICES["broker"]["command"]
    line = line.replace("/etc/mosquitto/mes/mosquitto.conf", str(conf)).replace("/tmp/mosquitto.conf", str(tmp_path / "conf"))
    line, found, _ = line.partition("&& exec mosquitto -c ")
    assert found
    subprocess.run([shell, flag, line], check=True)
    before, after = conf.read_text().splitlines(), (tmp_path / "conf").read_text().splitlines()
    assert [new for old, new in zip(before, after, strict=True) if old != new] == ["persistence_location /mosquitto/data/"]
    assert any(volume == "broker:/mosquitto/data" for volume in SERVICES["broker"]["volumes"])
    named = set(re.findall(r"^(?:acl_file|cafile|crlfile|certfile|keyfile) (\S+)", conf.read_text(), re.MULTILINE))
    assert named == {each["target"] for each in SERVICES["broker"]["secrets"]}


def test_the_version_is_the_programs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = {resolved(service["image"]) for service in SERVICES.values() if "build" in service}
    assert named == {f"mes:{project['version']}"}
    for path in (DEPLOY / "README.md", DEPLOY / "prepare", DEPLOY / ".env.example"):
        assert set(re.findall(r"\bmes[:-](\d+\.\d+\.\d+)", path.read_text())) == {project["version"]}, path


# --- the image ---------------------------------------------------------------------------------------------------------


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile, instruction by instruction."""
    text = re.sub(r"^#.*\n", "", (DEPLOY / "Dockerfile").read_text(), flags=re.MULTILINE)
    return [(line.split(" ")[0], line.partition(" ")[2]) for line in re.sub(r"\\\n\s*", "", text).splitlines() if line.strip()]


def test_the_image_is_built_of_pinned_parts_and_runs_as_nobody() -> None:
    steps = instructions()
    words = [word for word, _ in steps]
    assert set(words) <= {"ARG", "FROM", "ENV", "WORKDIR", "COPY", "RUN", "USER", "ENTRYPOINT", "CMD"}
    base = next(text for word, text in steps if word == "ARG").removeprefix("PYTHON=")
    assert re.fullmatch(r"python:3\.1[123]\.\d+-slim-\w+", base)
    assert [text for word, text in steps if word == "FROM"] == ["${PYTHON} AS build", "${PYTHON}"]
    last = words[len(words) - words[::-1].index("FROM") :]
    assert last.index("USER") < last.index("ENTRYPOINT"), "and nothing is run as root after that"
    assert [text for word, text in steps if word == "USER"] == [SERVICES["ingest"]["user"]]
    assert ("ENTRYPOINT", '["mes"]') in steps
    assert VARIABLE.findall(SERVICES["ingest"]["build"]["args"]["PYTHON"])[0][1] == base
    run = " && ".join(text for word, text in steps if word == "RUN")
    assert "--require-hashes" in run
    assert "apt-get" not in run
    assert not re.search(r"https?:|index-url|trusted-host", (DEPLOY / "Dockerfile").read_text())


def test_what_is_copied_into_the_image_is_there_and_no_secret() -> None:
    allowed = {line.removeprefix("!") for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        source for word, text in instructions() if word == "COPY" and not text.startswith("--from") for source in shlex.split(text)[:-1]
    }
    assert copied == allowed
    assert all((ROOT / source).exists() for source in copied)
    assert "deploy" not in copied


def test_what_is_taken_out_of_the_image_is_in_the_lock() -> None:
    run = next(text for word, text in instructions() if word == "RUN" and "uninstall" in text)
    lock = set(re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements.txt").read_text(), re.MULTILINE))
    taken = set(run.partition("uninstall --yes ")[2].split())
    assert taken - lock == {"pip", "setuptools"}, "which come with the environment"


# --- what the README says ----------------------------------------------------------------------------------------------


def test_the_readme_names_what_is_there() -> None:
    text = (DEPLOY / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"(?<![\w/])(?:deploy/[\w./-]+\w|tests/[\w/]+\.py|docs/\w+\.md)", text)) - {"deploy/secrets/grafana_admin"}
    generated = {"deploy/.env", "deploy/pki", "deploy/pki/machines", "deploy/secrets"}
    assert [path for path in sorted(named - generated) if not (ROOT / path).exists()] == []
    assert [link for link in re.findall(r"\]\(([\w/.]+)\)", text) if not (DEPLOY / link).exists()] == []
    units = {path.name.partition(".")[0].rstrip("@") for path in (DEPLOY / "systemd").iterdir()}
    assert set(re.findall(r"\bmes-(?:migrate|seed|ingest|rollup|board|doctor)\b", text)) <= units
    variables = set(re.findall(r"\b(?:MES_[A-Z_]+)\b", text)) - {"MES_SECRETS"}
    example = set(re.findall(r"^#(MES_\w+)=", (DEPLOY / ".env.example").read_text(), re.MULTILINE))
    assert variables <= known_variables() | example
    for command in re.findall(r"`mes ([a-z]+)\b", text):
        assert command in cli.main.commands, command
