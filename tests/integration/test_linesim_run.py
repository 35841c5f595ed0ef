"""`linesim` as a process against a real broker: every event arrives, in order, once or again unchanged."""

from __future__ import annotations

import datetime as dt
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from mes.contract import CellEvent, Topic
from mes.embedded.broker import EmbeddedBroker
from mes.seeds import load_plant
from mes.store.seed import seed
from simulators.journal import Journal
from simulators.machine import Machine
from tests.pipeline import service, sessions_held, value
from tests.servers import Mosquitto, free_port

ROOT = Path(__file__).resolve().parents[2]
START = "2026-11-10"

SITE = """
[site]
code = "hill"
name = "Small plant"
zone = "Asia/Ho_Chi_Minh"
day_start = 06:00:00
source = "test"
[[site.area]]
code = "cells"
name = "Cells"
[[site.shift]]
name = "all"
start = 06:00:00
end = 06:00:00
"""
LINE = """
[line]
site = "hill"
area = "cells"
code = "a-1"
name = "Small line"
product = "26650"
serial_prefix = "HL1"
source = "test"
[[station]]
code = "wnd"
seq = 10
name = "Winding"
section = "winding"
kind = "discrete"
cycle_s = 24
machines = 2
buffer_after = 5
plan_oee = 0.9
mtbf_min = 60
mttr_min = 5
basis = "J"
defect = [{ code = "W01", name = "break", ppm = 30000 }]
[[station.characteristic]]
name = "tension"
unit = "N"
nominal = 5
lsl = 4.4
usl = 5.6
sigma = 0.12
distribution = "normal"
sampling = 0.9
sampling_basis = "9 of 10"
basis = "J"
[[station]]
code = "bak"
seq = 20
name = "Bake"
section = "assembly"
kind = "batch"
cycle_s = 3600
cells_per_cycle = 100
machines = 5
buffer_after = 50
plan_oee = 0.9
mtbf_min = 600
mttr_min = 5
basis = "J"
[[station]]
code = "age"
seq = 30
name = "Ageing"
section = "finishing"
kind = "dwell"
cycle_s = 7200
machines = 3
positions = 200
buffer_after = 0
plan_oee = 0.9
mtbf_min = 99999
mttr_min = 5
rework = { max = 1, share = 0.5, success = 0.5 }
basis = "J"
defect = [{ code = "A01", name = "leak", ppm = 20000 }]
"""


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plant of one small line, by files alone."""
    folder = tmp_path_factory.mktemp("seeds")
    for name, text in (
        ("sites/hill.toml", SITE),
        ("lines/a.toml", LINE),
        ("products.toml", (ROOT / "seeds/products.toml").read_text(encoding="utf-8")),
        ("targets.toml", ""),
    ):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


def linesim(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "simulators", *map(str, arguments)]


def environment() -> dict[str, str]:
    """For a bare broker: nobody says what is committed."""
    return {**{k: v for k, v in os.environ.items() if not k.startswith("MES_")}, "MES_MARKS": "false"}


def run(*arguments: str | Path, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    return subprocess.run(linesim(*arguments), cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=timeout, check=False)


@contextmanager
def started(*arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    """A running linesim; killed at the end if it still runs."""
    child = subprocess.Popen(
        linesim(*arguments), cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    )
    try:
        yield child
    finally:
        if child.poll() is None:
            child.kill()
        child.communicate()


class Listener:
    """A plain subscriber to everything a line's machines say."""

    def __init__(self, url: str) -> None:
        self.messages: list[tuple[str, bytes, float]] = []
        self._ready = threading.Event()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=f"listener-{time.monotonic_ns()}", protocol=mqtt.MQTTv311)
        self._client.on_connect = lambda *_: self._client.subscribe("umh/v1/cbak/hill/#", qos=1)
        self._client.on_subscribe = lambda *_: self._ready.set()
        self._client.on_message = lambda _client, _data, m: self.messages.append((m.topic, m.payload, time.time()))
        host, port = url.removeprefix("mqtt://").split(":")
        self._client.connect(host, int(port))
        self._client.loop_start()
        assert self._ready.wait(10)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def events(self) -> list[tuple[str, CellEvent]]:
        found = []
        for topic, payload, _ in list(self.messages):
            several = payload[:1] == b"["
            events = msgspec.json.decode(payload, type=list[CellEvent]) if several else [msgspec.json.decode(payload, type=CellEvent)]
            found += [(topic, e) for e in events]
        return found


@pytest.fixture
def listener(embedded_broker: str) -> Iterator[Listener]:
    one = Listener(embedded_broker)
    yield one
    one.close()


def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def generated(seeds: Path, folder: Path, days: int = 1, seed: int = 1) -> dict[tuple[str, int], Any]:
    """What `linesim generate` writes, by topic and seq: numbered through, as by machines that do not restart with each day."""
    out = folder / "all.ndjson"
    done = run("generate", "--line", "a-1", "--start", START, "--days", str(days), "--seed", str(seed), "--seeds", seeds, "--out", out)
    assert done.returncode == 0, done.stderr
    found: dict[tuple[str, int], Any] = {}
    numbers: Counter[str] = Counter()
    last: dict[str, tuple[int, int]] = {}
    for text in out.read_text(encoding="utf-8").splitlines():
        row = json.loads(text)
        topic, event = row["topic"], row["event"]
        boot, seq = last.get(topic, (0, 0))
        assert (event["boot"] == boot and event["seq"] == seq + 1) or (event["boot"] > boot and event["seq"] == 1)
        last[topic] = event["boot"], event["seq"]
        numbers[topic] += 1
        found[topic, numbers[topic]] = {**event, "boot": 1, "seq": numbers[topic]}
    assert {boot for boot, _ in last.values()} == {((dt.date.fromisoformat(START) - dt.date(1999, 12, 31)).days + days - 1) * 1000}
    return found


def as_dict(event: CellEvent) -> Any:
    return json.loads(msgspec.json.encode(event))


def test_two_days_at_full_speed_arrive_and_equal_file_and_ledger(
    seeds: Path, tmp_path: Path, embedded_broker: str, listener: Listener
) -> None:
    ledger = tmp_path / "ledger.json"
    done = run(
        *("run", "--line", "a-1", "--start", START, "--days", "2", "--speed", "max", "--seeds", seeds),
        *("--broker", embedded_broker, "--progress", "json", "--ledger", ledger),
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    last = json.loads(done.stdout.splitlines()[-1])
    assert last["fraction"] == 1.0
    assert last["generated"] == last["published"] == last["acked"]
    assert last["simulated_until"] == "2026-11-11T23:00:00.000Z"
    truth = generated(seeds, tmp_path, days=2)
    until(lambda: len(listener.events()) >= len(truth))
    events = listener.events()
    assert len(events) == len(truth) == last["acked"]
    assert all(as_dict(e) == truth[topic, e.seq] for topic, e in events)
    seqs: dict[str, int] = {}
    for topic, e in events:
        assert e.seq == seqs.get(topic, 0) + 1
        seqs[topic] = e.seq
        Topic.parse(topic)
    days = json.loads(ledger.read_text(encoding="utf-8"))["days"]
    assert list(days) == ["2026-11-10", "2026-11-11"]
    assert sum(d["events"] for d in days.values()) == len(truth)
    assert sum(d["good"] for d in days.values()) == last["good"] == sum(e.result == "pass" for t, e in events if "/age/" in t)
    assert sum(m["events"] for d in days.values() for m in d["machines"].values()) == len(truth)
    assert any(payload[:1] == b"[" for _, payload, _ in listener.messages)


def test_paced_messages_are_single_events_in_order(seeds: Path, embedded_broker: str, listener: Listener) -> None:
    with started("run", "--line", "a-1", "--start", START, "--speed", "3600", "--seeds", seeds, "--broker", embedded_broker) as child:
        until(lambda: len(listener.messages) > 200)
        child.send_signal(signal.SIGINT)
        assert child.wait(10) == 0
    events = listener.events()
    single = sum(payload[:1] == b"{" for _, payload, _ in listener.messages)
    assert single > 0.8 * len(listener.messages)  # what was made before the connection stood is a backlog
    for topic in {t for t, _ in events}:
        times = [e.timestamp_ms for t, e in events if t == topic]
        assert times == sorted(times)


@pytest.mark.parametrize("stop_by", [signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_run_goes_on_where_it_was(
    seeds: Path, tmp_path: Path, embedded_broker: str, listener: Listener, stop_by: signal.Signals
) -> None:
    """Law 9 across restarts: all parts together are the stream of one run; what comes twice is the same."""
    truth = generated(seeds, tmp_path)
    line = ("--line", "a-1", "--start", START, "--days", "1", "--seeds", seeds)
    arguments = ("run", *line, "--broker", embedded_broker, "--state", tmp_path)
    state_file = tmp_path / "linesim-hill-a-1.json"

    def journaled() -> int:
        return int(json.loads(state_file.read_text(encoding="utf-8"))["journaled_until"]) if state_file.exists() else 0

    for speed in ("3600", "7200"):
        with started(*arguments, "--speed", speed, "--progress", "none") as child:
            until(state_file.exists)
            here = journaled()
            until(lambda here=here: journaled() > here)  # type: ignore[misc]
            asked = time.monotonic()
            child.send_signal(stop_by)
            code = child.wait(10)
            if stop_by != signal.SIGKILL:
                assert code == 0
                assert time.monotonic() - asked < 5
    state = json.loads(state_file.read_text(encoding="utf-8"))
    assert (state["boot"], state["seed"], state["start"]) == (1, 1, START)
    done = run(*arguments, "--speed", "max", "--progress", "json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["published"] < len(truth)
    until(lambda: {(t, e.seq) for t, e in listener.events()} >= truth.keys())
    events = listener.events()
    assert all(as_dict(e) == truth[topic, e.seq] for topic, e in events)
    if stop_by != signal.SIGKILL:
        assert len(events) < 1.05 * len(truth)
    assert run(*arguments, "--speed", "max", "--progress", "none").returncode == 0
    assert len(listener.events()) == len(events)  # all is acknowledged: nothing again


def test_another_seed_or_start_is_another_boot(seeds: Path, tmp_path: Path, embedded_broker: str) -> None:
    def boot_after(*arguments: str) -> tuple[int, int]:
        common = ("--line", "a-1", "--days", "1", "--speed", "max", "--seeds", seeds)
        done = run("run", *common, "--broker", embedded_broker, "--state", tmp_path, "--progress", "json", *arguments)
        assert done.returncode == 0, done.stderr
        state = json.loads((tmp_path / "linesim-hill-a-1.json").read_text(encoding="utf-8"))
        return state["boot"], json.loads(done.stdout.splitlines()[-1])["published"]

    assert boot_after("--start", START)[0] == 1
    assert boot_after("--start", START) == (1, 0)
    boot, published = boot_after("--start", START, "--seed", "2")
    assert boot == 2
    assert published > 0
    assert boot_after("--start", "2026-11-09", "--seed", "2")[0] == 3


def test_catch_up_reaches_the_present_and_never_the_future(seeds: Path, tmp_path: Path, embedded_broker: str, listener: Listener) -> None:
    arguments = ("run", "--line", "a-1", "--speed", "max", "--catch-up", "--seeds", seeds, "--broker", embedded_broker, "--state", tmp_path)
    with started(*arguments, "--progress", "json") as child:
        assert child.stdout is not None
        figures = {"simulated_until": "", "generated": 0, "acked": -1, "fraction": None}
        for text in child.stdout:
            figures = json.loads(text)
            at = dt.datetime.fromisoformat(str(figures["simulated_until"]))
            assert at <= dt.datetime.now(dt.UTC)
            if dt.datetime.now(dt.UTC) - at < dt.timedelta(seconds=5) and figures["acked"] == figures["generated"]:
                break
        assert figures["fraction"] is None
        child.send_signal(signal.SIGTERM)
        assert child.wait(10) == 0
    events = listener.events()
    assert len(events) > 1000
    for (_, payload, received), (_, e) in zip(listener.messages, events, strict=False):
        if payload[:1] == b"{":
            assert e.timestamp_ms <= received * 1000
    assert max(e.timestamp_ms for _, e in events) <= time.time() * 1000


def test_a_stale_state_begins_afresh(seeds: Path, tmp_path: Path, embedded_broker: str) -> None:
    arguments = ("run", "--line", "a-1", "--speed", "max", "--catch-up", "--seeds", seeds, "--broker", embedded_broker, "--state", tmp_path)
    path = tmp_path / "linesim-hill-a-1.json"

    def briefly() -> Any:
        with started(*arguments, "--progress", "json") as child:
            assert child.stdout is not None
            for text in child.stdout:
                if json.loads(text)["acked"]:
                    break
            child.send_signal(signal.SIGTERM)
            assert child.wait(10) == 0
        return json.loads(path.read_text(encoding="utf-8"))

    first = briefly()
    assert briefly()["boot"] == first["boot"] == 1
    path.write_text(json.dumps({**first, "journaled_until": first["journaled_until"] - 4 * 86_400_000_000}), encoding="utf-8")
    again = briefly()
    assert again["boot"] == 2
    assert again["start"] == first["start"]


def test_a_broker_that_comes_late_and_goes_between_costs_nothing(seeds: Path, tmp_path: Path) -> None:
    truth = generated(seeds, tmp_path)
    port = free_port()
    url = f"mqtt://127.0.0.1:{port}"
    arguments = ("run", "--line", "a-1", "--start", START, "--days", "1", "--speed", "7200", "--seeds", seeds, "--broker", url)
    with started(*arguments, "--progress", "none") as child:
        assert child.stderr is not None
        assert f"broker {url} does not answer" in child.stderr.readline()
        with EmbeddedBroker(tmp_path, port):
            first = Listener(url)
            until(lambda: len(first.events()) > 500)
            first.close()
        assert child.poll() is None
        with EmbeddedBroker(tmp_path, port):
            second = Listener(url)
            assert child.wait(60) == 0
            time.sleep(0.5)
            second.close()
        said = child.stderr.read().splitlines()
    events = first.events() + second.events()
    assert all(as_dict(e) == truth[topic, e.seq] for topic, e in events)
    # Both subscribers were away for a moment: what was acknowledged then is in no hands of ours, the rest is complete.
    arrived = {(t, e.seq) for t, e in second.events()}
    for topic in {t for t, _ in truth}:
        seqs = sorted(seq for t, seq in arrived if t == topic)
        assert seqs == list(range(seqs[0], seqs[0] + len(seqs)))
        assert seqs[-1] == max(seq for t, seq in truth if t == topic)
    assert len(said) <= 3  # one line a change, not one a try


@pytest.mark.parametrize("victim", ["broker", "linesim"])
def test_what_a_broker_has_lost_is_sent_again(
    seeds: Path, tmp_path: Path, new_database: Callable[[], str], mosquitto_of_mine: Mosquitto, victim: str
) -> None:
    """End to end: a broker that forgets everything at kill -9, a backend, and a line that is killed and started again."""
    database, broker = new_database(), mosquitto_of_mine
    seed(database, load_plant(seeds))
    ledger = tmp_path / "ledger.json"
    line = ("--line", "a-1", "--start", START, "--days", "1", "--seeds", seeds, "--broker", broker.url, "--state", tmp_path / "state")
    arguments = ("run", *line, "--speed", "7200", "--ledger", ledger, "--progress", "none", "--marks")
    with service("ingest", database, broker.url):
        sessions_held(database, 1)
        for moment in (2, 4):
            with started(*arguments) as child:
                until(lambda n=moment: value(database, "SELECT count(*) FROM mes.cell_event") > 1000 * n)  # type: ignore[misc]
                if victim == "broker":
                    broker.kill()
                    (broker.folder / "mosquitto.db").unlink(missing_ok=True)
                    broker.start()
                    before = value(database, "SELECT count(*) FROM mes.cell_event")
                    until(lambda n=before: value(database, "SELECT count(*) FROM mes.cell_event") > n)  # type: ignore[misc]
                child.kill()
        done = run(*arguments, "--speed", "max", timeout=300)
        assert done.returncode == 0, done.stderr
    truth = json.loads(ledger.read_text(encoding="utf-8"))["days"][START]
    stored = value(database, "SELECT count(*) FROM mes.cell_event")
    print(f"killed: {victim}; generated {truth['events']}, stored {stored}", end=" ")
    print(f"duplicate {value(database, 'SELECT sum(duplicates) FROM mes.machine_ledger')}")
    assert stored == truth["events"]
    received = value(database, "SELECT array_agg(received::text ORDER BY received::text) FROM mes.machine_ledger")
    assert received == sorted(f"{{[1,{m['events'] + 1})}}" for m in truth["machines"].values())
    left = list((tmp_path / "state").rglob("*.ndjson"))
    assert all(Machine("", Journal(path.parent, 1, "never")).uncommitted == 0 for path in left)


def test_refused_credentials_end_it_with_one_line(seeds: Path, tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "nats.conf").write_text(
        f'server_name: "t"\nhost: "127.0.0.1"\nport: -1\n'
        f'jetstream {{ store_dir: "{tmp_path}/js", max_memory_store: 8MB, max_file_store: 64MB }}\n'
        f'authorization {{ users: [ {{ user: "u", password: "secret" }} ] }}\nmqtt {{ host: "127.0.0.1", port: {port} }}\n',
        encoding="utf-8",
    )
    server = subprocess.Popen(
        [Path(sys.executable).with_name("nats-server"), "-c", tmp_path / "nats.conf"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        for user, code in (("u:wrong@", 2), ("", 2), ("u:secret@", 0)):
            done = run(
                *("run", "--line", "a-1", "--start", START, "--days", "1", "--speed", "max", "--seeds", seeds),
                *("--broker", f"mqtt://{user}127.0.0.1:{port}", "--progress", "none"),
            )
            assert done.returncode == code, done.stderr
            if code:
                last = done.stderr.splitlines()[-1]
                assert last.startswith(f"linesim: broker mqtt://127.0.0.1:{port} refuses")
                assert "wrong" not in done.stderr
    finally:
        server.terminate()
        server.wait(10)


def test_list_shows_the_lines(seeds: Path) -> None:
    done = run("list", "--seeds", seeds)
    assert done.returncode == 0
    assert "hill/cells/a-1" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", "--line", "nowhere"), "line 'nowhere' is unknown: use one of hill/cells/a-1"),
        (("run", "--line", "a-1", "--speed", "fast"), "'fast' is neither 'max' nor a number above 0"),
        (("run", "--line", "a-1", "--speed", "0"), "'0' is neither 'max' nor a number above 0"),
        (("run", "--line", "a-1", "--days", "0"), "--days"),
        (("run", "--line", "a-1", "--start", "10.11.2026"), "--start"),
        (("run", "--line", "a-1", "--broker", "http://localhost"), "is not mqtt://[user:password@]host[:port]"),
        (("run", "--line", "a-1", "--catch-up", "--start", "2090-01-01"), "has not begun"),
        (("run",), "--line"),
        (("generate", "--line", "a-1", "--out", "x.csv"), "use .ndjson"),
        (("generate", "--line", "a-1", "--out", "no/such/folder/x.ndjson"), "cannot be written"),
    ],
)
def test_a_wrong_flag_is_one_line_and_exit_2(seeds: Path, arguments: tuple[str, ...], words: str) -> None:
    done = run(*arguments, "--seeds", seeds)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.startswith("linesim: ")
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


def test_broken_seeds_are_one_line_and_exit_2(seeds: Path, tmp_path: Path) -> None:
    folder = tmp_path / "seeds"
    for path in seeds.rglob("*.toml"):
        copy = folder / path.relative_to(seeds)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(path.read_text(encoding="utf-8").replace("machines = 5", "machines = 0"), encoding="utf-8")
    done = run("run", "--line", "a-1", "--seeds", folder)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "lines/a.toml" in done.stderr
    assert "machines" in done.stderr


def test_a_broken_state_file_is_one_line_and_exit_2(seeds: Path, tmp_path: Path) -> None:
    (tmp_path / "linesim-hill-a-1.json").write_text("{", encoding="utf-8")
    done = run("run", "--line", "a-1", "--seeds", seeds, "--state", tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "not a state file" in done.stderr


def test_flags_have_environment_twins(seeds: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.ndjson"
    given = {"MES_LINE": "a-1", "MES_SEEDS": str(seeds), "MES_START": START, "MES_OUT": str(out), "MES_SEED": "1"}
    subprocess.run(linesim("generate"), cwd=ROOT, env={**environment(), **given}, check=True, capture_output=True, timeout=120)
    by_flags = generated(seeds, tmp_path)
    assert len(out.read_text(encoding="utf-8").splitlines()) == len(by_flags)
    assert not list(tmp_path.glob("*.part"))


def test_help_imports_nothing_heavy() -> None:
    code = "import sys, simulators.cli\nprint([m for m in ('numpy', 'numba', 'aiomqtt', 'paho') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
