"""The program that a person writes at first: aiomqtt as it is, json, a COPY for every 500 events, no index, no duplicates looked for.

aiomqtt has acknowledged a message before it hands it over, so what waits here when this dies is lost. (The session has
its subscription already: awaited behind a backlog it would only come after all of it.)
"""

from __future__ import annotations

import asyncio
import json
import sys

import aiomqtt
import psycopg

COLUMNS = ("boot", "seq", "timestamp_ms", "unit", "attempt", "result", "cycle_s", "defect", "channel")
COPY = f"COPY bench.plain (topic, {', '.join(COLUMNS)}, meas) FROM STDIN"
BATCH = 500


async def main(database: str, port: int, client_id: str) -> None:
    rows: list[tuple[object, ...]] = []
    async with (
        await psycopg.AsyncConnection.connect(database) as connection,
        aiomqtt.Client("127.0.0.1", port, identifier=client_id, clean_session=False, protocol=aiomqtt.ProtocolVersion.V311) as client,
    ):
        async for message in client.messages:
            decoded = json.loads(message.payload)
            for event in decoded if isinstance(decoded, list) else [decoded]:
                rows.append((str(message.topic), *map(event.get, COLUMNS), json.dumps(event.get("meas"))))
            if len(rows) >= BATCH or not len(client.messages):
                async with connection.cursor() as cursor, cursor.copy(COPY) as copy:
                    for row in rows:
                        await copy.write_row(row)
                await connection.commit()
                rows.clear()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
