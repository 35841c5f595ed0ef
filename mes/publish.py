"""The lines' figures as retained messages: the same numbers as the views, read from them."""

from __future__ import annotations

from typing import Any

import msgspec

from mes import contract


def throughput_day(row: tuple[Any, ...]) -> tuple[str, bytes]:
    """Topic and payload of `throughput_day` from a row of the query `latest_days`."""
    site, area, line, day, good, target, attainment, scrap, output_yield, rolled, last_ms = row
    payload = {
        "timestamp_ms": last_ms,
        "production_day": day,
        "value": good,
        "target": target,
        "attainment": attainment,
        "scrap": scrap,
        "output_yield": output_yield,
        "rolled_throughput_yield": rolled,
    }
    return contract.kpi_topic(site, area, line, "throughput_day"), msgspec.json.encode(payload)
