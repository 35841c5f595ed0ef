"""The roles of a plant on a server for tests, made as an administrator makes them: deploy/database/roles.sql, scram passwords."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg

from tests.pipeline import ROOT
from tests.servers import missing

SCRIPT = ROOT / "deploy/database/roles.sql"
LOGINS = ("mes_owner", "mes_ingest", "mes_rollup", "mes_dashboard")


class Roles:
    """A database `name` of its own whose roles have passwords, and the URL that each of them uses.

    server  URL of a superuser, who goes on without a password where he does now
    """

    def __init__(self, server: str, folder: Path, name: str = "mes") -> None:
        self.superuser = urlunsplit(urlsplit(server)._replace(path=f"/{name}"))
        self.secrets = folder / "secrets"
        self.secrets.mkdir(parents=True, exist_ok=True)
        self.passwords = {role: f"{role} knows: a'b\"c\\d" for role in LOGINS}
        for role, password in self.passwords.items():
            (self.secrets / role).write_text(f"{password}\n")
        with psycopg.connect(server, autocommit=True) as connection:
            if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone():
                connection.execute(f"CREATE DATABASE {name}".encode())
            trusts = connection.execute("SELECT count(*) FROM pg_hba_file_rules WHERE auth_method = 'trust'").fetchone()
            if trusts and trusts[0]:  # passwords shall count for all but the superuser
                path = connection.execute("SHOW hba_file").fetchone()
                user = connection.info.user
                local = f"('host all,replication {user} 127.0.0.1/32 trust'), ('local all {user} trust')"
                rules = f"SELECT * FROM (VALUES {local}, ('host all all 127.0.0.1/32 scram-sha-256')) AS v"
                connection.execute(f"COPY ({rules}) TO '{path[0]}'".encode())  # type: ignore[index]
                connection.execute("SELECT pg_reload_conf()")

    def install(self) -> subprocess.CompletedProcess[str]:
        """Run roles.sql."""
        if not (psql := shutil.which("psql")):
            missing("psql", "postgresql-client")
        done = subprocess.run(
            [str(psql), "-X", "-d", self.superuser, "-f", str(SCRIPT)],
            env={**os.environ, "MES_SECRETS": str(self.secrets)}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), done
        return done

    def url(self, role: str) -> str:
        """Of a role that logs in by password."""
        parts = urlsplit(self.superuser)
        password = "".join(f"%{byte:02X}" for byte in self.passwords[role].encode())
        return urlunsplit(parts._replace(netloc=f"{role}:{password}@{parts.hostname}:{parts.port}"))

    def person(self, name: str, of: str) -> str:
        """A person's own login, who is a member of a role; its URL."""
        self.passwords[name] = f"{name} knows"
        with psycopg.connect(self.superuser, autocommit=True) as connection:
            if not connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [name]).fetchone():
                connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{self.passwords[name]}' IN ROLE {of}".encode())
        return self.url(name)
