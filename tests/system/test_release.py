"""`./run release`: the same bytes twice, a valid SBOM of exactly the lock, licences that are known, and a wheel that works."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.installed import bare_environment, committed, install

LOCK = (ROOT / "requirements.txt").read_text(encoding="utf-8")
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
WHEEL = f"mes-{VERSION}-py3-none-any.whl"
FILES = {"SHA256SUMS", "licences.txt", WHEEL, f"mes-{VERSION}.tar.gz", "requirements.txt", "sbom.cdx.json"}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return committed(tmp_path_factory.mktemp("checkout") / "mes")


def release(checkout: Path, out: Path, umask: int = 0o022, **environment: str) -> subprocess.CompletedProcess[str]:
    """As `./run release` hands over; no package index and no proxy can be reached from it."""
    nowhere = dict.fromkeys(("PIP_INDEX_URL", "UV_DEFAULT_INDEX", "http_proxy", "https_proxy"), "http://127.0.0.1:9")
    return subprocess.run(
        [sys.executable, checkout / ".ci" / "release.py", "--out", out],
        cwd="/", env={**os.environ, **nowhere, **environment}, umask=umask, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def made(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("release") / "dist"
    done = release(checkout, out)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert re.match(rf"release of commit \w+ in {out}\n", done.stdout)
    return out


def test_everything_is_there_and_has_its_sum(made: Path) -> None:
    assert {path.name for path in made.iterdir()} == FILES
    sums = dict(reversed(line.split("  ")) for line in (made / "SHA256SUMS").read_text().splitlines())
    assert sums == {name: hashlib.sha256((made / name).read_bytes()).hexdigest() for name in FILES - {"SHA256SUMS"}}
    assert (made / "requirements.txt").read_text() == LOCK


def test_again_from_a_changed_folder_gives_the_same_bytes(made: Path, checkout: Path, tmp_path: Path) -> None:
    """Another day, time zone, umask, age of files, and changes that were not committed: which are named."""
    (checkout / "mes" / "not_committed.py").write_text("")
    os.utime(checkout / "mes" / "cli.py", (0, 0))
    try:
        done = release(checkout, tmp_path / "again", 0o077, TZ="Asia/Shanghai", PYTHONHASHSEED="7")
    finally:
        (checkout / "mes" / "not_committed.py").unlink()
    assert done.returncode == 0, done.stderr
    assert done.stderr == "not in the release, since not committed: mes/not_committed.py\n"
    for name in FILES:
        assert (tmp_path / "again" / name).read_bytes() == (made / name).read_bytes(), name


def test_the_sbom_is_valid_and_holds_exactly_the_lock_with_its_hashes(made: Path) -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    text = (made / "sbom.cdx.json").read_text(encoding="utf-8")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    document = json.loads(text)
    assert document["metadata"]["component"]["name"] == "mes"
    assert document["metadata"]["timestamp"] == "2026-11-25T04:00:00+00:00"
    # read here in another way than there: line by line
    expected: dict[tuple[str, str], set[str]] = {}
    for line in LOCK.splitlines():
        if line[0].isalpha():
            name, version = line.split(" ")[0].split("==")
            hashes = expected.setdefault((name, version), set())
        elif "--hash=sha256:" in line:
            hashes.add(line.split("--hash=sha256:")[1].split(" ")[0])
    found = {
        (part["name"], part["version"]): {each["content"] for reference in part["externalReferences"] for each in reference["hashes"]}
        for part in document["components"]
    }
    assert found == expected
    assert len(expected) > 30
    assert all(expected.values())


def test_the_licence_list_names_every_package(made: Path) -> None:
    listed = dict(re.findall(r"^([a-z0-9-]+ \d\S+) {2,}(\S.*)$", (made / "licences.txt").read_text(), re.MULTILINE))
    assert set(listed) == {f"{name} {version}" for name, version in re.findall(r"^([a-z0-9-]+)==(\S+)", LOCK, re.MULTILINE)}
    assert listed[next(name for name in listed if name.startswith("psycopg "))] == "LGPL-3.0-only"
    assert "LGPL-3.0-only: psycopg, psycopg-binary: " in (made / "licences.txt").read_text()


def test_the_installed_wheel_works(made: Path, tmp_path: Path, database: str) -> None:
    """Far from the checkout: its own code, its SQL, its seeds, its page."""
    programs = install(made / WHEEL, tmp_path / "venv")
    env = bare_environment(MES_DATABASE_URL=database, HOME=str(tmp_path))

    def run(*command: str) -> str:
        done = subprocess.run([programs / command[0], *command[1:]], cwd="/", env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert run("python", "-c", "import mes, simulators; print(mes.__file__, simulators.__file__)").count(str(tmp_path / "venv/lib")) == 2
    assert "Counts battery cells" in run("mes", "--help")
    assert run("mes", "migrate").endswith("\nnothing to apply\n"), "its migrations are those of the checkout"
    assert run("mes", "seed") == "2 sites, 2 lines: unchanged\n", "its seeds are those of the checkout"
    assert "32140-1" in run("linesim", "list", "--seeds", str(tmp_path / "venv/share/mes/seeds"))


# --- what stops a release ----------------------------------------------------------------------------------------------


@pytest.fixture
def program() -> Any:
    spec = importlib.util.spec_from_file_location("release", ROOT / ".ci" / "release.py")
    assert spec is not None
    assert spec.loader is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    sys.modules["release"] = module
    spec.loader.exec_module(module)
    return module


class Declared:
    """Stands for the metadata of installed packages."""

    def __init__(self, **fields: str) -> None:
        self.fields = fields

    def __call__(self, _name: str) -> Declared:
        return self

    def __getitem__(self, name: str) -> str | None:
        return self.fields.get(name.replace("-", "_"))

    def get_all(self, name: str) -> list[str]:
        return [self.fields[name]] if name in self.fields else []


@pytest.mark.parametrize(
    ("fields", "licence"),
    [
        ({"License_Expression": "MIT"}, "MIT"),
        ({"License_Expression": "GPL-3.0-only OR MIT"}, "GPL-3.0-only OR MIT"),
        ({"License_Expression": "BSD-2-Clause AND Apache-2.0 WITH LLVM-exception"}, "BSD-2-Clause AND Apache-2.0 WITH LLVM-exception"),
        ({"License": "MIT"}, "MIT"),
        ({"License": "The MIT License, see LICENSE", "Classifier": "License :: OSI Approved :: MIT License"}, "MIT"),
    ],
)
def test_a_licence_is_taken_as_declared(program: Any, monkeypatch: pytest.MonkeyPatch, fields: dict[str, str], licence: str) -> None:
    monkeypatch.setattr(program.metadata, "metadata", Declared(**fields))
    assert program.licence_of("some") == licence


@pytest.mark.parametrize(
    ("name", "fields", "says"),
    [
        ("some", {"License_Expression": "AGPL-3.0-or-later"}, "some has the licence AGPL-3.0-or-later, which is not allowed"),
        ("some", {"License_Expression": "MIT AND GPL-2.0-only"}, "not allowed"),
        ("some", {"License_Expression": "GPL-2.0-only WITH Classpath-exception-2.0"}, "not allowed"),
        ("some", {"License_Expression": "LGPL-3.0-only"}, "not allowed"),  # psycopg may, others may not
        ("some", {"License": "Proprietary"}, "some declares Proprietary, which is no SPDX licence"),
        ("some", {"License_Expression": "LicenseRef-Own"}, "no SPDX licence"),
        ("some", {}, "some declares nothing"),
        ("numba", {"License": "GPL"}, "numba no longer declares 'BSD'"),
    ],
)
def test_a_licence_that_is_unknown_or_not_allowed_stops_it(
    program: Any, monkeypatch: pytest.MonkeyPatch, name: str, fields: dict[str, str], says: str
) -> None:
    monkeypatch.setattr(program.metadata, "metadata", Declared(**fields))
    with pytest.raises(program.Stop, match=re.escape(says)):
        program.licence_of(name)


def test_every_exception_is_used(program: Any) -> None:
    names = set(re.findall(r"^([a-z0-9-]+)==", LOCK, re.MULTILINE))
    assert {name for who, _ in program.ALLOWED_FOR.values() for name in who} <= names
    assert set(program.READ) <= names


def test_a_package_without_a_hash_or_that_is_not_here_stops_it(program: Any, tmp_path: Path) -> None:
    (tmp_path / "lock.txt").write_text("rich==15.0.0\nnot-here==1.0 \\\n    --hash=sha256:" + "0" * 64 + "\n")
    with pytest.raises(program.Stop, match=r"rich==15\.0\.0 has no hash in lock\.txt; not-here is not installed here"):
        program.locked(tmp_path / "lock.txt")


def test_a_folder_with_other_things_is_left_alone(program: Any, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.odt").touch()
    with pytest.raises(program.Stop, match=r"holds thesis\.odt: give --out another folder"):
        program.place(tmp_path / "made", tmp_path / "out")
    assert (tmp_path / "out" / "thesis.odt").exists()


def test_without_a_commit_there_is_no_release(checkout: Path, tmp_path: Path) -> None:
    (tmp_path / ".ci").mkdir()
    (tmp_path / ".ci" / "release.py").write_bytes((checkout / ".ci" / "release.py").read_bytes())
    done = release(tmp_path, tmp_path / "out")
    assert (done.returncode, done.stderr) == (2, f"release: {tmp_path} is no git checkout: a release is made of a commit\n")
