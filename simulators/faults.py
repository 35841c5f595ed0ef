"""Faults, wrapped around a perfect stream: what machines state wrongly, and what reaches the broker twice, late or not at all at first.

Some change the facts as the machine states them (skew, restart), and the ledger counts those. Others change only when and how often
an event comes (duplicate, reorder, late, silence), and heal: in the end everything has come. Malformed payloads come in addition and
count as nothing. The stream underneath stays the same, bit for bit: faults draw from numbers of their own, by seed and event.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, Final

import numpy as np

from simulators import draws
from simulators.conditions import FORMS, Fault
from simulators.jit import Array, fixed, kernel
from simulators.scenario import TICKS, Scenario
from simulators.stream import Extra, Slice

_HIT, _MUCH, _FORM = (fixed(n) for n in (1, 2, 3))
_MOST_RESTARTS: Final = 999  # of a machine in a production day: its boots are a thousand apart
_MALFORMED_BOOT: Final = 1  # of payloads in addition: no boot that real events of a faulted stream have
_EVER: Final = 1 << 62


@kernel
def _numbers(key: Any, unit: Any, station: Any, attempt: Any, purpose: int, out: Any) -> None:
    """A number in [0, 1) for each event and purpose."""
    for i in range(len(out)):
        out[i] = draws.uniform(key, unit[i], attempt[i] + (station[i] << 16), purpose)


@kernel
def _restart(hit: Any, machine: Any, seq: Any, boots: Any, more: Any, base: Any, most: int) -> None:
    """Count restarts by machine, and number its events from 1 after each; `more` and `base` carry on from slice to slice."""
    for i in range(len(hit)):
        m = machine[i]
        if hit[i] and more[m] < most:
            more[m] += 1
            base[m] = seq[i] - 1
        boots[i] += more[m]
        seq[i] -= base[m]


class Faults:
    """The faults of a line. Give it the slices of a stream whose machines restart daily, in order, and then ask for the rest.

    record   what was done, by fault: its kind, and each event (machine, boot, seq, instant of delivery in ms) or machine that it hit
    """

    def __init__(self, scenario: Scenario, faults: list[Fault], seed: int) -> None:
        self.record: list[dict[str, Any]] = [{"fault": n, "kind": f.kind, "count": 0, "hits": []} for n, f in enumerate(faults)]
        self._faults = faults
        self._scenario = scenario
        self._names = ["/".join(codes) for codes in scenario.machine_codes]
        self._keys = [np.uint64(draws.key_of(seed, f"fault {n}")) for n in range(len(faults))]
        self._more, self._base = (np.zeros(len(self._names), np.int64) for _ in range(2))
        self._malformed: dict[int, int] = {}
        self._boot = -1
        self._held: Slice | None = None

    def wrap(self, part: Slice) -> tuple[Array, Slice]:
        """The facts of a slice as their machines state them, in order of their time (EVENT), and what is delivered until its end."""
        if part.boot != self._boot:
            self._boot = part.boot
            self._more[:] = self._base[:] = 0
        events = part.events.copy()
        n = len(events)
        boots, told, at = np.full(n, part.boot), events["t"].copy(), events["t"].copy()
        seq = events["seq"].copy()
        hits = [self._hits(i, events) for i in range(len(self._faults))]
        # What machines state comes first: the record of what is delivered names it.
        restarts = np.zeros(n, bool)
        for hit, f in zip(hits, self._faults, strict=True):
            if f.kind == "restart":
                restarts |= hit
            elif f.kind == "skew":
                told[hit] += int(f.span_s * TICKS)
        _restart(restarts, events["machine"].copy(), seq, boots, self._more, self._base, _MOST_RESTARTS)
        events["seq"] = seq
        again: list[Array] = []
        extra: list[Extra] = []
        for i, f in enumerate(self._faults):
            which = np.flatnonzero(hits[i])
            much = self._draw(i, events[which], _MUCH)
            if f.kind in ("reorder", "late"):
                at[which] += (much * f.span_s * TICKS).astype(np.int64)
            elif f.kind == "silence":
                at[which] = np.maximum(at[which], self._silent_until(f, events["t"][which]))
            elif f.kind == "malformed":
                extra += self._nonsense(i, f, events[which])
            elif f.kind == "duplicate":
                again.append(np.stack([which, (much * f.span_s * TICKS).astype(np.int64)]))
            self._note(i, events[which], boots[which], at[which])
        stated = events.copy()
        stated["t"] = told
        copies, delay = np.concatenate([*again, np.zeros((2, 0), np.int64)], axis=1)
        order = np.concatenate([np.arange(n), copies])
        at = np.concatenate([at, at[copies] + delay])
        whole = replace(part, events=events[order], boots=boots[order], told=told[order], at=at, extra=tuple(extra))
        return stated[np.argsort(told, kind="stable")], self._deliver(whole, part.until)

    def rest(self) -> Slice:
        """All that is still held back."""
        assert self._held is not None
        return self._deliver(replace(self._held, extra=()), _EVER, fresh=False)

    def _deliver(self, part: Slice, until: int, fresh: bool = True) -> Slice:
        """What is due before `until`, of `part` if it is fresh and of what was held, in order of delivery; the rest is held."""
        parts = [one for one in (self._held, part if fresh else None) if one is not None]
        order = np.argsort(np.concatenate([_at(one) for one in parts]), kind="stable")
        at = np.concatenate([_at(one) for one in parts])[order]
        cut = int(np.searchsorted(at, until))
        extra = sorted((one for of in parts for one in of.extra), key=lambda one: one.at)
        due = sum(one.at < until for one in extra)

        def select(where: slice) -> Slice:
            chosen = order[where]
            events, boots, told = (np.concatenate([getattr(of, name) for of in parts])[chosen] for name in ("events", "boots", "told"))
            return replace(part, events=events, boots=boots, told=told, at=at[where], extra=())

        self._held = replace(select(slice(cut, None)), extra=tuple(extra[due:]))
        return replace(select(slice(cut)), extra=tuple(extra[:due]))

    def _draw(self, i: int, events: Array, purpose: int) -> Array:
        out = np.empty(len(events))
        _numbers(self._keys[i], events["unit"].copy(), events["station"].copy(), events["attempt"].copy(), purpose, out)
        return out

    def _hits(self, i: int, events: Array) -> Array:
        """Which events this fault hits."""
        f, t = self._faults[i], events["t"]
        stations = self._scenario.line.station
        hit = np.ones(len(events), bool)
        if f.station is not None:
            hit &= events["station"] == [s.code for s in stations].index(f.station)
        if f.machine is not None:
            hit &= events["machine"] == self._names.index(f"{f.station}/{f.machine}")
        if f.from_ is not None:
            hit &= t >= self._ticks(f.from_)
        if f.kind == "silence" and f.from_ is not None:
            hit &= t < self._ticks(f.from_) + int(f.span_s * TICKS)
        if f.to is not None:
            hit &= t < self._ticks(f.to)
        if f.rate is not None:
            hit &= self._chance(i, f, events) < f.rate
        return hit

    def _chance(self, i: int, f: Fault, events: Array) -> Array:
        if f.kind not in ("skew", "silence"):
            return self._draw(i, events, _HIT)
        machine = events["machine"].copy()
        span = events["t"] // int(f.span_s * TICKS) if f.kind == "silence" and f.from_ is None else np.zeros(len(events), np.int64)
        out = np.empty(len(events))
        _numbers(self._keys[i], np.ascontiguousarray(span), machine, np.ones(len(events), np.int64), _HIT, out)
        return out

    def _silent_until(self, f: Fault, t: Array) -> Array:
        span = int(f.span_s * TICKS)
        return np.full(len(t), self._ticks(f.from_) + span) if f.from_ is not None else (t // span + 1) * span

    def _ticks(self, local: Any) -> int:
        return int(local.replace(tzinfo=self._scenario.site.tz).timestamp() * TICKS)

    def _note(self, i: int, events: Array, boots: Array, at: Array) -> None:
        record, kind = self.record[i], self._faults[i].kind
        record["count"] += len(events)
        if kind in ("skew", "silence"):
            for m in np.unique(events["machine"]).tolist():
                mine = at[events["machine"] == m]
                record["hits"].append([self._names[m], len(mine), int(mine.min()) // 1000, int(mine.max()) // 1000])
        elif kind != "malformed":
            rows = zip(events["machine"].tolist(), boots.tolist(), events["seq"].tolist(), (at // 1000).tolist(), strict=True)
            record["hits"] += [[self._names[m], *more] for m, *more in rows]

    def _nonsense(self, i: int, f: Fault, events: Array) -> list[Extra]:
        forms = f.forms or FORMS
        found = []
        for event, u in zip(events, self._draw(i, events, _FORM).tolist(), strict=True):
            form, m = forms[int(u * len(forms))], int(event["machine"])
            self._malformed[m] = seq = self._malformed.get(m, 0) + 1
            found.append(Extra(int(event["t"]), m, malformed(form, seq, int(event["t"]) // 1000)))
            self.record[i]["hits"].append([self._names[m], form, int(event["t"]) // 1000])
        return found


def _at(part: Slice) -> Array:
    assert part.at is not None
    return part.at


def malformed(form: str, seq: int, at_ms: int) -> bytes:
    """A payload that no backend may understand: a good event with one thing wrong."""
    event: dict[str, Any] = {
        "boot": _MALFORMED_BOOT, "seq": seq, "timestamp_ms": at_ms, "unit": "MALFORMED", "attempt": 1, "result": "pass", "cycle_s": 1.5,
    }  # fmt: skip
    if form == "wrong_type":
        event["attempt"] = "first"
    elif form == "missing_field":
        del event["result"]
    elif form == "unknown_characteristic":
        event["meas"] = {"no_such_quantity": 1.0}
    elif form == "huge_integer":
        event["timestamp_ms"] = 10**30
    elif form == "nul":
        event["unit"] = "A\0B"
    elif form == "oversize":
        event["unit"] = "X" * 5_000
    text = json.dumps(event, separators=(",", ":")).encode()
    if form == "not_json":
        return b"\xff\xfe not JSON, number " + str(seq).encode()
    if form == "truncated":
        return text[:-9]
    if form == "nan":
        return text.replace(b"1.5", b"NaN")
    if form == "duplicate_key":
        return text.replace(b'"attempt":1', b'"attempt":1,"attempt":2')
    return text
