"""Links that are slow, cut, half open or reset, servers that stand still, and workers that take over from each other."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from mes import contract
from mes.store.events import Writer, active_lines
from tests import fleet
from tests.faults import PATIENCE_S, Broker, Database, Databases, Plant, port_of, through
from tests.island import Island
from tests.pipeline import Gateway
from tests.proxy import BOTH, Proxy
from tests.servers import Mosquitto, free_port, wait_for

Make = Callable[..., tuple[Plant, Broker]]
Tell = Callable[[object], None]


def misbehave(proxy: Proxy, draw: random.Random) -> str:
    """Something happens to the link; what."""
    what = draw.choice(["delay", "slice", "reset", "silent", "deaf", "mute", "refuse"])
    match what:
        case "delay":
            proxy.delay_s = draw.uniform(0.01, 0.3)
        case "slice":
            proxy.slice_to = draw.randint(1, 50)
        case "reset":
            proxy.reset()
        case "silent" | "deaf" | "mute":
            proxy.silent = BOTH if what == "silent" else frozenset({"down"} if what == "deaf" else {"up"})
        case "refuse":
            proxy.refusing = True
            proxy.reset()
    return what


@pytest.mark.parametrize("link", ["machines-broker", "ingest-broker", "ingest-database"])
def test_a_bad_link(make_plant: Make, tell: Tell, link: str, fault_seed: int) -> None:
    plant, broker = make_plant("embedded" if link == "ingest-broker" else "mosquitto")
    draw = random.Random(f"{fault_seed} {link}")
    with Proxy(port_of(plant.database) if link == "ingest-database" else broker.port, fault_seed) as proxy:
        by_proxy = through(plant.broker, proxy.port)
        plant.start("rollup")
        plant.start(
            "ingest",
            broker=by_proxy if link == "ingest-broker" else None,
            database=through(plant.database, proxy.port) if link == "ingest-database" else None,
        )
        plant.sessions_held()
        plant.run_machines(200, 800, broker=by_proxy if link == "machines-broker" else None)
        done = []
        for _ in range(5):
            done.append(misbehave(proxy, draw))
            time.sleep(draw.uniform(0.3, 2.0))
            if draw.random() < 0.6:
                proxy.heal()
                time.sleep(draw.uniform(0, 0.5))
        proxy.heal()
        proxy.reset()
        recovered = plant.recovers()
        tell(f"{plant.settle()} ({', '.join(done)}; committing again after {recovered:.1f} s)")
        assert proxy.connections > 1


@pytest.mark.parametrize("how", ["stands still", "shut down"])
def test_the_database_is_away_under_load(make_plant: Make, tell: Tell, server: Database, how: str) -> None:
    plant, _ = make_plant()
    plant.start("ingest", "rollup")
    plant.sessions_held()
    plant.run_machines(200, 600).has_sent(500)
    if how == "stands still":
        server.signal(signal.SIGSTOP)
        time.sleep(8)
        server.signal(signal.SIGCONT)
    else:
        server.shut_down()
        time.sleep(8)
        server.start()
    recovered = plant.recovers()
    tell(f"{plant.settle()} (8 s; committing again after {recovered:.1f} s)")


SLOW_FOR_THE_ISLAND = """
CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN IF host(inet_client_addr()) = '{there}' THEN PERFORM pg_sleep(2); END IF; RETURN NULL; END $$;
CREATE TRIGGER slow BEFORE INSERT ON mes.dirty_bucket FOR EACH STATEMENT EXECUTE FUNCTION slow()
"""


def database_of(url: str) -> str:
    writer = Writer.open(url, active_lines(url)[1][0])
    try:
        return writer.database()
    finally:
        writer.close()


@pytest.mark.parametrize("moment", ["any", "the server answers"])
def test_a_worker_behind_a_cut_cable_is_replaced(tell: Tell, tmp_path: Path, moment: str) -> None:
    """No side is told of the cut. A server whose answer is not taken sends no keepalives: it needs its user timeout."""
    if why := Island.refused():
        tell(f"not run, this machine gives us no network of our own: {why}")
        return
    with (
        Island() as island,
        Database(tmp_path / "server", settings={"listen_addresses": f"127.0.0.1,{island.here}"}) as server,
        Mosquitto(tmp_path / "mosquitto", f"listener {(port := free_port())} {island.here}\n") as broker,
    ):
        databases = Databases(server, tmp_path)
        with (server.data / "pg_hba.conf").open("a") as hba:
            hba.write(f"host all all {island.there}/30 scram-sha-256\n")
        with Plant(tmp_path / "plant", databases.new(), broker.url, databases.seeds) as plant:
            plant.ask("SELECT pg_reload_conf()")
            at_server, at_broker = through(plant.database, server.port, island.here), through(broker.url, port, island.here)
            assert database_of(at_server) == database_of(plant.database), "workers that reach it by two addresses have to know it as one"
            plant.start("ingest-1", database=at_server, broker=at_broker, prefix=island.inside)
            plant.sessions_held()
            plant.start("ingest-2", "rollup")
            if moment == "the server answers":
                with psycopg.connect(plant.database) as connection:
                    connection.execute(SLOW_FOR_THE_ISLAND.format(there=island.there).encode())
            plant.run_machines(250, 400).has_sent(200)
            if moment == "the server answers":
                wait_for(
                    lambda: plant.ask("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"), PATIENCE_S, "a batch under way"
                )
            island.cut()
            replaced = plant.recovers()
            island.heal()
            tell(f"{plant.settle()} (another worker had committed for both lines {replaced:.1f} s after the cut)")


@pytest.mark.parametrize("kind", ["mosquitto", "embedded"])
def test_another_worker_takes_over(make_plant: Make, tell: Tell, kind: str) -> None:
    """Killed with all in hand and nothing committed: only the broker can give it to the other, nobody sends again."""
    plant, broker = make_plant(kind)
    plant.start("ingest-1", "rollup")
    plant.sessions_held()
    plant.start("ingest-2")
    plant.sent = {(topic, 1): [fleet.cell(topic, 1, seq) for seq in range(1, 301)] for topic in plant.topics}
    messages = [(topic, contract.encode(event)) for (topic, _), events in plant.sent.items() for event in events]
    with psycopg.connect(plant.database) as other, Gateway(broker.url) as gateway:
        other.execute("LOCK TABLE mes.cell_event IN EXCLUSIVE MODE")
        gateway.send(messages)
        wait_for(lambda: plant.ask("SELECT count(*) FROM pg_locks WHERE NOT granted") == 2, PATIENCE_S, "a batch of each line under way")
        plant.kill("ingest-1")
        other.rollback()
        killed = time.monotonic()
    recovered = plant.recovers()
    wait_for(lambda: plant.ask("SELECT count(*) FROM mes.cell_event") == len(messages), PATIENCE_S, "everything stored")
    everything = time.monotonic() - killed
    del plant.workers["ingest-1"]
    tell(f"{plant.settle(len(messages))} (committing again after {recovered:.1f} s, everything after {everything:.1f} s)")
