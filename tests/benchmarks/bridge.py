"""mq-bridge (Rust) doing a plain copy: MQTT at QoS 1, acknowledged after its COPY; no index, no duplicates looked for.

It maps the members of an event that are plain values to columns. Readings and topic it leaves out, and it cannot take an
array of events apart, so it is measured with one event a message. Its queue holds a whole backlog: it writes nothing until
its SUBACK has come, which the broker sends behind the backlog, and with a shorter queue it waited for that for ever.
"""

from __future__ import annotations

import signal
import sys

from mq_bridge import Route, init_logging  # type: ignore[import-not-found]

COLUMNS = ("boot", "seq", "timestamp_ms", "unit", "attempt", "result", "cycle_s", "defect", "channel")


def main(database: str, port: str, client_id: str, pattern: str) -> None:
    init_logging("warn")
    values = ", ".join(f"${{payload:{column}}}" for column in COLUMNS)
    route = Route.from_config(
        {
            "input": {
                "mqtt": {
                    "url": f"tcp://127.0.0.1:{port}", "topic": pattern, "client_id": client_id, "qos": 1, "clean_session": False,
                    "protocol": "v3", "queue_capacity": 400_000,
                }
            },
            "output": {
                "sqlx": {
                    "url": database, "table": "bench.plain", "bulk_copy": True,
                    "insert_query": f"INSERT INTO bench.plain ({', '.join(COLUMNS)}) VALUES ({values})",
                }
            },
            "batch_size": 4096,
            "startup_timeout_ms": 60_000,
        }
    )  # fmt: skip
    signal.signal(signal.SIGTERM, lambda *_: route.stop())
    route.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
