"""Who may do what in the database: doors that should be closed are tried by asking the catalog, not by opening them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from mes.doctor.finding import Check, Finding, Level, some
from mes.store.look import Look

OWNER: Final = "mes_owner"
SERVICES: Final = ("mes_ingest", "mes_rollup", "mes_dashboard")
_PEOPLE: Final = "mes_operator"
_DELETES: Final = frozenset({"DELETE", "TRUNCATE"})
_FACTS: Final = frozenset({"mes.cell_event", "mes.state_event"})
_MAKE: Final = "make the roles and give each service its own (deploy/database), then run `mes migrate`"


def own(look: Look) -> Iterator[Finding]:
    role, is_super = look.row("doctor_own_role")
    if is_super and look.is_embedded:
        yield Finding("roles.own", Level.NOTE, f"everything connects as superuser {role}: the embedded server is for trials", _MAKE)
    elif is_super:
        found = f"doctor connects as superuser {role}; a service that does could do anything to every database of the server"
        yield Finding("roles.own", Level.WARNING, found, f"give each service a role of its own ({OWNER}, {', '.join(SERVICES)})")
    else:
        yield Finding("roles.own", Level.OK, f"doctor connects as {role}, no superuser")


def exist(look: Look) -> Iterator[Finding]:
    found = dict(look.rows("doctor_roles", [OWNER, *SERVICES]))
    if not found:
        yield Finding("roles.exist", Level.NOTE, "every service has one and the same role: a trial, no plant", _MAKE)
        return
    if lacking := sorted({OWNER, *SERVICES} - found.keys()):
        yield Finding("roles.exist", Level.WARNING, f"there is no role {some(lacking)}", _MAKE)
    else:
        yield Finding("roles.exist", Level.OK, f"{OWNER}, {', '.join(SERVICES)}")
    for role, is_super in found.items():
        if is_super:
            yield Finding(
                "roles.exist", Level.PROBLEM, f"{role} is a superuser: no grant holds it back", f"ALTER ROLE {role} NOSUPERUSER", role
            )


def rights(look: Look) -> Iterator[Finding]:
    """What the roles have beyond what they need. Superusers have been told of."""
    ordinary = [role for role, is_super in look.rows("doctor_roles", [*SERVICES, _PEOPLE]) if not is_super]
    for role in ordinary:
        held = look.rows("doctor_rights", role=role)
        beyond = [f"{what} {table}" for table, what in held if _is_beyond(role, table, what)]
        if beyond:
            cure = f"REVOKE it from {role} (and from PUBLIC, and from roles that {role} is a member of), or run `mes migrate` again"
            yield Finding("roles.rights", Level.PROBLEM, f"{role} may {some(beyond)}", cure, role)
        else:
            yield Finding("roles.rights", Level.OK, f"{role} has no right beyond its work", about=role)
    if "mes_dashboard" in ordinary and ("report.line", "SELECT") not in look.rows("doctor_rights", role="mes_dashboard"):
        yield Finding(
            "roles.rights", Level.PROBLEM, "mes_dashboard cannot read the schema report", "run `mes migrate` again", "mes_dashboard"
        )


def _is_beyond(role: str, table: str, what: str) -> bool:
    schema = table.partition(".")[0]
    if role == "mes_dashboard":
        return not (schema == "report" and what == "SELECT")
    if table in _FACTS and what == "UPDATE":
        return True
    deletes = schema if what in _DELETES else ""
    return bool(deletes) and (role == "mes_ingest" or table in _FACTS)


CHECKS: Final[Mapping[str, Check[Look]]] = {"roles.own": own, "roles.exist": exist, "roles.rights": rights}
