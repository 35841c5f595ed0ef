"""Records of the database as columns: every value as it was written, and no strange byte taken for an event."""

from __future__ import annotations

import math
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mes.kpi.events import Events, decode
from tests.naive import Report, record

INT64 = st.integers(-(2**63), 2**63 - 1)
INT32 = st.integers(-(2**31), 2**31 - 1)
INT16 = st.integers(-(2**15), 2**15 - 1)
FLOAT32 = st.floats(width=32)
SLOTS = 3

REPORTS = st.lists(
    st.builds(
        Report, at=INT64, received_at=INT64, unit=INT64, seq=INT64, machine_id=INT32, boot=INT32, cycle_s=FLOAT32, station_id=INT16,
        attempt=INT16, result=INT16, defect_id=INT16, meas=st.lists(FLOAT32, max_size=SLOTS).map(tuple),
    ),
    max_size=8,
)  # fmt: skip
REPORT = Report(1, 2, 3, 4, 5, 6, 7.0, 8, 9, 1, 11, (12.0, 13.0))
PROPERTY = settings(deadline=None, max_examples=200)


@given(REPORTS)
@PROPERTY
def test_columns_hold_what_the_records_say(reports: list[Report]) -> None:
    events = decode(b"".join(map(record, reports)), SLOTS)
    assert len(events) == len(reports)
    assert all(getattr(events, f.name).dtype == getattr(Events.none(SLOTS), f.name).dtype for f in fields(Events))
    for field in fields(Events):
        if field.name != "meas":
            expected = np.array([getattr(r, field.name) for r in reports], getattr(events, field.name).dtype)
            np.testing.assert_array_equal(getattr(events, field.name), expected, err_msg=field.name)
    meas = [r.meas + (math.nan,) * (SLOTS - len(r.meas)) for r in reports]
    np.testing.assert_array_equal(events.meas, np.array(meas, np.float32).reshape(-1, SLOTS))


@given(REPORTS.filter(bool), st.data())
@PROPERTY
def test_what_is_cut_off_is_refused(reports: list[Report], data: st.DataObject) -> None:
    records = [record(r) for r in reports]
    ends = {sum(map(len, records[:n])) for n in range(len(records) + 1)}
    cut = data.draw(st.integers(0, max(ends)).filter(lambda n: n not in ends))
    with pytest.raises(ValueError, match="record"):
        decode(b"".join(records)[:cut], SLOTS)


def test_an_event_may_have_no_slot_at_all() -> None:
    bare = Report(1, 2, 3, 4, 5, 6, 7.0, 8, 9, 1, 11, ())
    assert decode(record(bare) * 2, 0).meas.shape == (2, 0)
    with pytest.raises(ValueError, match="up to 0 readings"):
        decode(record(REPORT), 0)


STRANGE = {
    "two dimensions": (52, b"\0\0\0\2"),
    "a negative dimension": (52, b"\xff\xff\xff\xff"),
    "with NULLs": (56, b"\0\0\0\1"),
    "of float8": (60, b"\0\0\2\xbd"),
    "no elements": (64, b"\0\0\0\0"),
    "more elements than bytes": (64, b"\0\0\0\3"),
    "more elements than there are bytes in the world": (64, b"\x7f\xff\xff\xff"),
    "a negative number of elements": (64, b"\xff\xff\xff\xff"),
    "a lower bound that is not 1": (68, b"\0\0\0\0"),
    "an element that is NULL": (72, b"\xff\xff\xff\xff"),
    "a last element of eight bytes": (80, b"\0\0\0\x08"),
}


@pytest.mark.parametrize(("at", "instead"), STRANGE.values(), ids=STRANGE.keys())
def test_strange_records_are_refused(at: int, instead: bytes) -> None:
    good = record(REPORT)
    assert len(decode(good * 3, SLOTS)) == 3
    with pytest.raises(ValueError, match=f"at byte {len(good)} "):
        decode(good + good[:at] + instead + good[at + 4 :] + good, SLOTS)


def test_more_readings_than_slots_are_refused() -> None:
    with pytest.raises(ValueError, match="up to 1 readings"):
        decode(record(REPORT), 1)


def test_events_are_put_together_and_chosen() -> None:
    one, three = decode(record(REPORT), SLOTS), decode(record(REPORT) * 3, SLOTS)
    four = Events.concatenated([one, Events.none(SLOTS), three])
    assert (len(four), four.meas.shape, len(Events.none(SLOTS))) == (4, (4, SLOTS), 0)
    taken = four.take(np.array([True, False, False, True]))
    assert len(taken) == 2
    assert all(getattr(taken, f.name).flags.c_contiguous for f in fields(Events))
