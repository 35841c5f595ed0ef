"""`./run release`: what is handed to a plant, made from the last commit and nothing else, in `dist/`.

    mes-VERSION.tar.gz, mes-VERSION-py3-none-any.whl   the same bytes each time they are built from that commit
    requirements.txt      the hashed lock that goes with the wheel
    sbom.cdx.json         CycloneDX: every package of the lock with its hashes and licence
    licences.txt          name, version and licence of each; one that is unknown or not allowed stops the release
    SHA256SUMS            of all of these

It asks no network. Exit code 2, with one line, when something stands in the way.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from license_expression import ExpressionError, LicenseWithExceptionSymbol, get_spdx_licensing

ROOT = Path(__file__).resolve().parent.parent
LOCK = "requirements.txt"

# Licences that ask for a notice at most.
ALLOWED = {
    "0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "ISC", "MIT", "MIT-0",
    "PSF-2.0", "Zlib",
}  # fmt: skip
# Licences that ask for more, each with the packages that may have it and why that is no burden.
ALLOWED_FOR = {
    "LGPL-3.0-only": ({"psycopg", "psycopg-binary"}, "a package of its own, unmodified, which anybody can replace"),
    "MPL-2.0": ({"pathspec"}, "unmodified; serves hatchling, which only installs a checkout"),
}
# Packages that declare something which is no licence of the SPDX list: what they declare, and what their licence file says.
READ = {
    "aiomqtt": ("License :: OSI Approved :: BSD License", "BSD-3-Clause"),
    "numba": ("BSD", "BSD-2-Clause"),
}
CLASSIFIERS = {
    "License :: OSI Approved :: Apache Software License": "Apache-2.0",
    "License :: OSI Approved :: MIT License": "MIT",
    "License :: OSI Approved :: Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
}

_SPDX = get_spdx_licensing()


class Stop(Exception):
    """Ends with one line on stderr and exit code 2."""


@dataclass(frozen=True)
class Package:
    """A line of the lock. `licence` is an SPDX expression."""

    name: str
    version: str
    hashes: tuple[str, ...]
    licence: str


def main() -> None:
    words = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    words.add_argument("--out", type=Path, default=ROOT / "dist", help="folder to make it in; its former content goes  [default: dist]")
    out = words.parse_args().out.absolute()
    with tempfile.TemporaryDirectory(prefix="mes-release-") as folder:
        source, made = Path(folder, "source"), Path(folder, "made")
        commit, epoch = export(source)
        os.environ["SOURCE_DATE_EPOCH"] = epoch
        packages = locked(source / LOCK)
        made.mkdir()
        build(source, made)
        shutil.copy(source / LOCK, made)
        (made / "sbom.cdx.json").write_text(sbom(source, packages), encoding="utf-8")
        (made / "licences.txt").write_text(licences(packages), encoding="utf-8")
        files = sorted(path for path in made.iterdir())
        (made / "SHA256SUMS").write_text("".join(f"{digest(path)}  {path.name}\n" for path in files))
        place(made, out)
    print(f"release of commit {commit} in {out}")
    print((out / "SHA256SUMS").read_text(), end="")


def export(into: Path) -> tuple[str, str]:
    """Write the tree of the last commit, whatever lies in the checkout; returns the commit and its time."""
    if not (ROOT / ".git").exists():
        raise Stop(f"{ROOT} is no git checkout: a release is made of a commit")
    git = ["git", "-C", str(ROOT), "-c", f"safe.directory={ROOT}", "-c", "tar.umask=0022"]
    try:
        commit, epoch = call(*git, "log", "-1", "--format=%h %ct").split()
        changed = call(*git, "status", "--porcelain").splitlines()
        into.mkdir()
        call(*git, "archive", "--format=tar", "-o", str(into.with_suffix(".tar")), "HEAD")
    except FileNotFoundError as why:
        raise Stop("git is not installed: apt-get install -y git") from why
    if changed:
        print(f"not in the release, since not committed: {', '.join(line[3:] for line in changed)}", file=sys.stderr)
    unpack(into.with_suffix(".tar"), into)
    return commit, epoch


def build(source: Path, out: Path) -> None:
    """The sdist, and the wheel from the sdist, so that the one is known to suffice for the other."""
    hatchling = [sys.executable, "-m", "hatchling", "build", "-d", str(out)]
    call(*hatchling, "-t", "sdist", cwd=source)
    sdist = next(out.glob("*.tar.gz"))
    unpack(sdist, source.parent / "unpacked")
    call(*hatchling, "-t", "wheel", cwd=next((source.parent / "unpacked").iterdir()))
    with zipfile.ZipFile(next(out.glob("*.whl"))) as wheel:
        held = set(wheel.namelist())
    lacking = [
        str(path.relative_to(source))
        for folder in ("mes", "simulators")
        for path in sorted((source / folder).rglob("*"))
        if path.is_file() and str(path.relative_to(source)) not in held
    ]
    if lacking:
        raise Stop(f"the wheel lacks {', '.join(lacking)}: look at [tool.hatch.build] in pyproject.toml")


def locked(lock: Path) -> list[Package]:
    """The packages of a lock; Stop where one has no hash, or a licence that is unknown or not allowed."""
    found, faults = [], []
    for name, version, rest in re.findall(r"^([a-z0-9._-]+)==([^\s;]+)((?:.*\\\n)*.*)", lock.read_text(encoding="utf-8"), re.MULTILINE):
        hashes = tuple(re.findall(r"--hash=sha256:([0-9a-f]{64})", rest))
        if not hashes:
            faults.append(f"{name}=={version} has no hash in {lock.name}")
        try:
            found.append(Package(name, version, hashes, licence_of(name)))
        except Stop as why:
            faults.append(str(why))
    if faults:
        raise Stop("; ".join(faults))
    return found


def licence_of(name: str) -> str:
    """The licence that the installed package declares, as an SPDX expression; Stop if it is unknown or not allowed.

    Where the lock holds one version for each Python, all of them are taken to have the licence of the one that is here.
    """
    try:
        about = metadata.metadata(name)
    except metadata.PackageNotFoundError as why:
        raise Stop(f"{name} is not installed here, so its licence is unknown: ./run lint installs everything") from why
    classifiers = [text for text in about.get_all("Classifier") or [] if text.startswith("License ::")]
    declared = [text for text in (about["License-Expression"], about["License"], *classifiers) if text]
    if name in READ:
        text, licence = READ[name]
        if text not in declared:
            raise Stop(f"{name} no longer declares {text!r}: read its licence and correct READ in .ci/release.py")
        return licence
    for text in declared:
        if (licence := CLASSIFIERS.get(text, text)) and (expression := parsed(licence)) is not None:
            if allows(name, expression):
                return licence
            raise Stop(
                f"{name} has the licence {licence}, which is not allowed: do without it, or say why in ALLOWED_FOR of .ci/release.py"
            )
    said = " / ".join(text.partition("\n")[0][:60] for text in declared) or "nothing"
    raise Stop(f"{name} declares {said}, which is no SPDX licence: read its licence file and add it to READ in .ci/release.py")


def parsed(text: str) -> Any:
    """The text as an SPDX expression, or None."""
    try:
        return _SPDX.parse(text, validate=True)
    except ExpressionError:
        return None


def allows(name: str, expression: Any) -> bool:
    """Whether the package may have it: of "A OR B" one will do, of "A AND B" both must be allowed."""
    if isinstance(expression, _SPDX.OR):
        return any(allows(name, one) for one in expression.args)
    if isinstance(expression, _SPDX.AND):
        return all(allows(name, one) for one in expression.args)
    licence = str(expression.render() if isinstance(expression, LicenseWithExceptionSymbol) else expression.key)
    return licence in ALLOWED or name in ALLOWED_FOR.get(licence, (set(), ""))[0]


def licences(packages: list[Package]) -> str:
    """The list for people."""
    wide = max(len(f"{package.name} {package.version}") for package in packages)
    rows = [f"{f'{package.name} {package.version}':{wide}}  {package.licence}\n" for package in packages]
    reasons = [f"{licence}: {', '.join(sorted(names))}: {why}\n" for licence, (names, why) in sorted(ALLOWED_FOR.items())]
    head = f"What each package of {LOCK} declares. Wheels with compiled parts name the libraries in them in their own licence files.\n\n"
    return head + "".join(rows) + "\n" + "".join(reasons)


def sbom(source: Path, packages: list[Package]) -> str:
    """CycloneDX of the lock, with licences; Stop if it is not valid or holds anything else than the lock."""
    command = [
        Path(sys.executable).parent / "cyclonedx-py",
        "requirements",
        "--output-reproducible",
        "--pyproject",
        source / "pyproject.toml",
    ]
    document = json.loads(call(*map(str, command), str(source / LOCK)))
    by_name = {(package.name, package.version): package for package in packages}
    for component in document["components"]:
        package = by_name.get((component["name"], component["version"]))
        hashes = [each["content"] for reference in component.get("externalReferences", []) for each in reference.get("hashes", [])]
        if package is None or sorted(hashes) != sorted(package.hashes):
            raise Stop(f"the SBOM says {component['name']} {component['version']} with {len(hashes)} hashes, the lock something else")
        component["licenses"] = [{"expression": package.licence}]
        component.pop("description", None)  # the line of the lock once more
    if len(document["components"]) != len(by_name):
        raise Stop(f"the SBOM holds {len(document['components'])} packages, the lock {len(by_name)}")
    text = json.dumps(document, indent=1, sort_keys=True) + "\n"
    if fault := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        raise Stop(f"the SBOM is not valid: {str(fault).partition(chr(10))[0]}")
    return text


def unpack(archive: Path, into: Path) -> None:
    into.mkdir(exist_ok=True)
    call("tar", "-xf", str(archive), "-C", str(into))


def place(made: Path, out: Path) -> None:
    """Replace the folder `out`, unless it holds what no release has put there."""
    if out.exists():
        strange = [
            path.name
            for path in out.iterdir()
            if not (path.name in {"SHA256SUMS", LOCK, "sbom.cdx.json", "licences.txt"} or path.name.startswith("mes-"))
        ]
        if strange:
            raise Stop(f"{out} holds {', '.join(sorted(strange)[:5])}: give --out another folder")
        shutil.rmtree(out)
    shutil.copytree(made, out)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def call(*command: str, cwd: Path = ROOT) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise Stop(f"{' '.join(Path(word).name for word in command[:3])}: {last}")
    return done.stdout


if __name__ == "__main__":
    try:
        main()
    except Stop as why:
        print(f"release: {why}", file=sys.stderr)
        sys.exit(2)
