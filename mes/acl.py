"""Who may say and hear what at the broker, as an access list for Mosquitto, made from the plant.

A user is the name in a client's certificate: the topic path of a machine, the path of a line (its gateway), `backend`, a
dashboard. Every machine has an entry of its own. A pattern with %u would need none, but Mosquitto from 2.1 on does not
let a name with a slash into a pattern, and a line's gateway would need one with wildcards, which fits other names as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from mes import contract
from mes.pki import BACKEND, machines
from mes.plant import Plant

_ANY_LINE = ("+", "+", "+")
_ANY_MACHINE = (*_ANY_LINE, "+", "+")
DOCTOR = "mes/doctor/#"
"""Where `mes doctor` tries a broker: the backend writes there and reads what it wrote."""


def access_list(plant: Plant, dashboards: Iterable[str]) -> str:
    """The text of an `acl_file`. What is not listed is denied; nobody without a certificate is listed."""
    entries = [_entry(BACKEND, _backend())]
    entries += [_entry(name, _dashboard()) for name in sorted(dashboards)]
    for path in sorted(plant.lines):
        entries.append(_entry(path, _machine(f"{path}/+/+")))
        entries += [_entry(name, _machine(name)) for name in machines(plant, path)]
    return "# Made by `mes pki --acl` from the plant; make it anew when lines or machines change, and send Mosquitto SIGHUP.\n" + "".join(
        entries
    )


def _entry(user: str, allowed: Iterable[tuple[str, str]]) -> str:
    return f"\nuser {user}\n" + "".join(f"topic {what} {topic}\n" for what, topic in allowed)


def _backend() -> Iterator[tuple[str, str]]:
    yield "read", contract.machine_topic(*_ANY_MACHINE, "cell")
    yield "read", contract.machine_topic(*_ANY_MACHINE, "state")
    yield "readwrite", contract.machine_topic(*_ANY_MACHINE, "ledger")
    yield "readwrite", contract.holder_topic(*_ANY_LINE)
    yield "readwrite", contract.kpi_topic(*_ANY_LINE, "+")
    yield "readwrite", _alerts()
    yield "readwrite", DOCTOR
    yield "read", "$SYS/#"


def _dashboard() -> Iterator[tuple[str, str]]:
    yield "read", contract.kpi_topic(*_ANY_LINE, "+")
    yield "read", _alerts()
    yield "read", "$SYS/broker/uptime"  # for a health check


def _machine(path: str) -> Iterator[tuple[str, str]]:
    site, area, line, station, machine = path.split("/")
    yield "write", contract.machine_topic(site, area, line, station, machine, "cell")
    yield "write", contract.machine_topic(site, area, line, station, machine, "state")
    yield "read", contract.machine_topic(site, area, line, station, machine, "ledger")


def _alerts() -> str:
    return contract.kpi_topic(*_ANY_LINE, "+").replace("_kpi_v1", "_alert_v1")
