"""No payload, no serial and no password in what services log, at level debug, whatever comes and whatever breaks."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import quote, urlsplit

import psycopg
import pytest

from mes.contract import encode
from tests.integration.test_refusals import as_user, with_password
from tests.pipeline import WND, Gateway, environment, event, rows, sessions_held, value
from tests.poison import at_random, by_hand
from tests.servers import free_port, stopped_at_the_end, wait_for

SERIAL = "QX7-SERIAL-000"
MARK = b"QX7-PAYLOAD"
LAST = encode(event(10_001, unit=f"{SERIAL}9"))
REFUSE = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF NEW.unit = 'QX7-SERIAL-0009' THEN PERFORM NEW.unit::integer; END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER refuse BEFORE INSERT ON mes.cell_event FOR EACH ROW EXECUTE FUNCTION refuse();
"""


class Said:
    """What a service has written to stderr and stdout."""

    def __init__(self, log: Path, form: str) -> None:
        self.log = log
        self._form = form

    def check(self, secrets: list[str]) -> list[str]:
        """Every line is in the format and holds none of these; the messages."""
        text = self.log.read_text(encoding="utf-8")
        assert [secret for secret in secrets if secret in text] == []
        assert "Traceback" not in text
        lines = text.splitlines()
        if self._form == "text":
            return lines
        found = [json.loads(line) for line in lines]
        assert all({"timestamp", "level", "logger", "message", "command", "worker"} <= line.keys() for line in found)
        return [line["message"] for line in found]


@pytest.mark.parametrize("form", ["text", "json"])
def test_no_line_holds_what_was_sent_or_a_password(database: str, tmp_path: Path, form: str) -> None:
    password = "p4ss-of-the-broker"
    with with_password(tmp_path / "mosquitto") as broker, contextlib.ExitStack() as running:
        subprocess.run(["mosquitto_passwd", "-b", tmp_path / "mosquitto/passwords", "mes", password], check=True)
        broker.kill()
        broker.start()
        url = as_user(broker.url, "mes", password)
        port = free_port()
        services: dict[str, tuple[subprocess.Popen[bytes], Said]] = {}
        for name, *words in (["ingest", "--metrics-port", str(free_port())], ["rollup"], ["board", "--port", str(port)]):
            log = tmp_path / f"{name}.log"
            command = [sys.executable, "-m", "mes", "--log-level", "debug", "--log-format", form, name, *words]
            out = running.enter_context(log.open("wb"))
            service = subprocess.Popen(command, env=environment(database, url), stdout=out, stderr=out, start_new_session=True)
            services[name] = running.enter_context(stopped_at_the_end(service)), Said(log, form)
        sessions_held(database)
        with Gateway(url) as gateway:
            gateway.cells(WND, [event(n, unit=f"{SERIAL}1") for n in range(1, 300)])
            gateway.send([(topic, payload) for topic, payload in by_hand() if len(payload) < 1 << 19][:200] + at_random(100))
            gateway.send([(WND, MARK), (WND, b'{"boot":1,"seq":"' + MARK + b'"}'), (WND.replace("/01/", f"/{SERIAL.lower()}/"), MARK)])
            gateway.cells(WND, [event(n, unit=f"{SERIAL}1") for n in range(1, 300)])
            wait_for(lambda: value(database, "SELECT count(*) FROM mes.quarantine WHERE payload = %s", MARK) == 2, 60, "poison kept")
            wait_for(lambda: value(database, "SELECT coalesce(max(events), 0) FROM report.daily_throughput") >= 299, 60, "figures")
            for path in (f"/api/unit/{SERIAL}", f"/?serial={SERIAL}", f"/{quote(SERIAL)}%00"):
                with contextlib.suppress(urllib.error.HTTPError), urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10):
                    pass
            # the broker goes and comes back, and so does the memory of duplicates: rows that stand are met by the key
            broker.kill()
            rows(database, "DELETE FROM mes.machine_ledger RETURNING 1")
            rows(database, "DELETE FROM mes.line_session RETURNING 1")
            broker.start()
            sessions_held(database)
            with Gateway(url) as again:
                again.cells(WND, [event(n, unit=f"{SERIAL}1") for n in range(1, 300)])
                wait_for(lambda: value(database, "SELECT coalesce(sum(duplicates), 0) FROM mes.machine_ledger") >= 299, 90, "met again")
                with psycopg.connect(database, autocommit=True) as connection:
                    connection.execute(REFUSE)
                again.send([(WND, LAST)])
            ingest, said = services["ingest"]
            assert ingest.wait(60) == 2  # a server that refuses a row does so again: this cannot be waited for
        secrets = [SERIAL, SERIAL.lower(), MARK.decode(), password, str(urlsplit(database).password), '"unit"', "electrode_tension"]
        messages = said.check(secrets)
        assert messages[-1].removeprefix("mes: ").startswith("database postgresql://mes@127.0.0.1")
        assert "InvalidTextRepresentation (22P02): the server's log has it" in messages[-1]
        assert any("quarantined (" in message for message in messages)
        assert any("299 duplicates" in message or "duplicates" in message for message in messages)
        assert any("trying again in" in message for message in messages)
        for name in ("rollup", "board"):
            service, said = services[name]
            service.terminate()
            service.wait(20)
            said.check(secrets)
