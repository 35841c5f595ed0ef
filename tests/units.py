"""The units of deploy/systemd/, read as systemd reads them, and run by hand in the confinement that they ask for."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from tests.installed import ROOT, bare_environment
from tests.servers import missing, stopped_at_the_end

FOLDER = ROOT / "deploy" / "systemd"
PROGRAM = "/opt/mes/bin/mes"
SERVICES = sorted(FOLDER.glob("*.service"))


def analyze() -> str:
    """The program systemd-analyze."""
    found = shutil.which("systemd-analyze")
    if found is None:
        missing("systemd-analyze", "systemd")
    return str(found)


class Unit:
    """A unit file: its settings by name, each a list in the order of the file (an empty value stays an empty text)."""

    def __init__(self, path: Path, instance: str = "") -> None:
        self.path = path
        self.name = path.name.replace("@.", f"@{instance}.")
        self.instance = instance
        self.settings: dict[str, list[str]] = defaultdict(list)
        for line in path.read_text(encoding="utf-8").replace("\\\n", " ").splitlines():
            if line and not line.startswith(("#", ";", "[")):
                name, _, value = line.partition("=")
                self.settings[name.strip()].append(value.strip())

    def one(self, name: str) -> str:
        assert len(self.settings[name]) == 1, f"{self.name}: {name}= stands {len(self.settings[name])} times"
        return self.settings[name][0]

    def has(self, name: str) -> bool:
        return self.settings.get(name, ["no"])[-1] == "yes"

    def words(self, name: str) -> list[str]:
        return [word for value in self.settings.get(name, []) for word in shlex.split(value)]

    @property
    def command(self) -> list[str]:
        return shlex.split(self.one("ExecStart"))


class Plant:
    """A machine's folders: /etc/mes and /var/cache below `root`, /opt/mes/bin at `programs`."""

    def __init__(self, root: Path, programs: Path) -> None:
        self.root = root
        self.programs = programs
        self.etc = root / "etc" / "mes"
        self.etc.mkdir(parents=True)

    def here(self, text: str) -> str:
        return text.replace("/etc/mes", str(self.etc)).replace("/opt/mes/bin", str(self.programs))

    @contextlib.contextmanager
    def started(self, unit: Unit) -> Iterator[subprocess.Popen[bytes]]:
        """Start the unit's command as systemd would; its output goes to NAME.log below the root."""
        credentials = self.root / "credentials" / unit.name
        credentials.mkdir(parents=True, exist_ok=True)
        writable = []
        for pair in unit.settings["LoadCredential"]:
            name, _, source = pair.partition(":")
            (credentials / name).unlink(missing_ok=True)
            shutil.copy(self.here(source), credentials / name)
            (credentials / name).chmod(0o400)
        for name in unit.settings.get("CacheDirectory", []):
            (folder := self.root / "cache" / name).mkdir(parents=True, exist_ok=True)
            writable.append(str(folder))
        specifiers = {"%i": unit.instance, "%d": str(credentials), "%C": str(self.root / "cache")}
        environment = dict(word.split("=", 1) for word in unit.words("Environment"))
        for name, value in environment.items():
            for specifier, meaning in specifiers.items():
                value = value.replace(specifier, meaning)
            environment[name] = self.here(value)
        for file in unit.settings.get("EnvironmentFile", []):
            path = Path(self.here(file.lstrip("-")))
            lines = path.read_text().splitlines() if path.exists() or not file.startswith("-") else []
            environment |= dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
        confinement = {
            "command": [self.here(word) for word in unit.command],
            "no_new_privileges": unit.has("NoNewPrivileges"),
            "no_capabilities": unit.settings.get("CapabilityBoundingSet") == [""],
            "no_write_and_execute": unit.has("MemoryDenyWriteExecute"),
            "read_only": unit.settings.get("ProtectSystem") == ["strict"],
            "writable": writable,
            "umask": int(unit.one("UMask"), 8),
            "families": unit.words("RestrictAddressFamilies"),
            "calls": sorted(allowed_calls(tuple(unit.settings["SystemCallFilter"]))),
        }
        with (self.root / f"{unit.name}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-I", ROOT / "tests" / "confined.py", json.dumps(confinement)],
                cwd="/", env=bare_environment(**environment), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        with stopped_at_the_end(process):
            yield process

    def log(self, unit: Unit) -> str:
        return (self.root / f"{unit.name}.log").read_text()


@functools.cache
def allowed_calls(filters: tuple[str, ...]) -> frozenset[str]:
    """The system calls that lists such as "@system-service" and "~@privileged" leave, in systemd's own groups."""
    allowed = _group("@default")
    for text in filters:
        named = set().union(*(_group(word) for word in text.lstrip("~").split()))
        allowed = allowed - named if text.startswith("~") else allowed | named
    return frozenset(allowed | _group("@default"))


def _group(name: str) -> set[str]:
    if not name.startswith("@"):
        return {name}
    lines = subprocess.check_output([analyze(), "syscall-filter", name], text=True).splitlines()[1:]
    return set().union(*(_group(line.strip()) for line in lines if line.strip() and not line.strip().startswith("#")))


def placed(into: Path, unit_program: Path) -> Path:
    """The units in a folder of their own, with a program that is there, for systemd-analyze."""
    into.mkdir()
    for path in FOLDER.iterdir():
        (into / path.name).write_text(path.read_text().replace(PROGRAM, str(unit_program)))
    return into


def analyzed(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """systemd-analyze over the units of a folder; those of the system are found behind it."""
    env = {**os.environ, "SYSTEMD_UNIT_PATH": f"{folder}:", "SYSTEMD_LOG_LEVEL": "notice", "LC_ALL": "C"}
    return subprocess.run([analyze(), *words], cwd=folder, env=env, capture_output=True, text=True, check=False)
