"""Production days tile time without gap or overlap, in every zone, whatever its clocks do."""

from __future__ import annotations

import datetime as dt
import itertools
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mes.calendar import Calendar

ZONES = st.sampled_from(sorted(available_timezones() - {"localtime"}))
DAY_STARTS = st.integers(0, 24 * 12 - 1).map(lambda n: dt.time(n // 12, n % 12 * 5))
INSTANTS = st.datetimes(dt.datetime(1970, 1, 3), dt.datetime(2100, 1, 1), timezones=st.just(dt.UTC))  # noqa: DTZ001 - hypothesis wants it so
DATES = st.dates(dt.date(1970, 1, 3), dt.date(2100, 1, 1))
DAY = dt.timedelta(days=1)
HOUR = dt.timedelta(hours=1)


def utc(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC)


@given(INSTANTS, ZONES, DAY_STARTS)
@settings(deadline=None, max_examples=200)
@example(utc("2011-12-30T10:00"), "Pacific/Apia", dt.time(0))  # 2011-12-30 was left out there
@example(utc("2011-12-30T09:59:59.999999"), "Pacific/Apia", dt.time(0))
@example(utc("1993-08-21T12:00"), "Pacific/Kwajalein", dt.time(0))  # so was 1993-08-21
@example(utc("2025-03-09T07:30"), "America/New_York", dt.time(2, 30))
@example(utc("2025-03-09T07:29:59"), "America/New_York", dt.time(2, 30))
@example(utc("2025-11-02T05:30"), "America/New_York", dt.time(1, 30))  # the first of two
@example(utc("2025-11-02T06:30"), "America/New_York", dt.time(1, 30))  # the second
@example(utc("2018-11-04T03:00"), "America/Sao_Paulo", dt.time(0))  # no midnight on that day
@example(utc("2010-11-07T02:45"), "America/St_Johns", dt.time(0))  # clocks went back from 00:01 to 23:01 of the day before
@example(utc("2005-04-03T10:30"), "Australia/Lord_Howe", dt.time(2))  # half an hour of summer time
def test_every_instant_lies_in_exactly_one_day(instant: dt.datetime, zone: str, day_start: dt.time) -> None:
    calendar = Calendar(ZoneInfo(zone), day_start)
    day = calendar.day_of(instant)
    around = [day + n * DAY for n in range(-3, 4)]
    bounds = [calendar.bounds(d) for d in around]
    assert [d for d, (begin, end) in zip(around, bounds, strict=True) if begin <= instant < end] == [day]
    assert all(end == begin for (_, end), (begin, _) in itertools.pairwise(bounds))
    assert all(begin <= end for begin, end in bounds)
    assert all(moment.utcoffset() == dt.timedelta(0) for pair in bounds for moment in pair)


@given(DATES, ZONES, DAY_STARTS)
@settings(deadline=None, max_examples=100)
def test_a_day_begins_at_its_local_time_on_its_date(day: dt.date, zone: str, day_start: dt.time) -> None:
    begin = Calendar(ZoneInfo(zone), day_start).starts_at(day)
    local = begin.astimezone(ZoneInfo(zone))
    wanted = dt.datetime.combine(day, day_start)
    if local.replace(tzinfo=None) != wanted:  # then the clocks jumped over it, and the day begins within that jump
        jump = (begin + 25 * HOUR).astimezone(ZoneInfo(zone)).utcoffset(), (begin - 25 * HOUR).astimezone(ZoneInfo(zone)).utcoffset()
        assert None not in jump
        assert jump[0] != jump[1]
        assert local.replace(tzinfo=None) > wanted


@given(INSTANTS, ZONES, DAY_STARTS)
@settings(deadline=None, max_examples=100)
def test_where_no_clock_changes_the_day_is_the_local_date_less_the_start(instant: dt.datetime, zone: str, day_start: dt.time) -> None:
    tz = ZoneInfo(zone)
    offsets = {(instant + n * 6 * HOUR).astimezone(tz).utcoffset() for n in range(-12, 13)}
    if len(offsets) == 1:
        local = instant.astimezone(tz).replace(tzinfo=None)
        since_midnight = dt.timedelta(hours=day_start.hour, minutes=day_start.minute)
        calendar = Calendar(tz, day_start)
        assert calendar.day_of(instant) == (local - since_midnight).date()
        assert calendar.bounds(calendar.day_of(instant))[1] - calendar.bounds(calendar.day_of(instant))[0] == DAY


# tz database: New York changes its clocks at 02:00 local time on 2025-03-09 and 2025-11-02; China's summer time began on
# 1986-05-04 at 02:00 (tzdata since 2018f) and ended for good on 1991-09-15 at 02:00.
LENGTHS = [
    ("America/New_York", "08:00", "2025-03-07", 24),
    ("America/New_York", "08:00", "2025-03-08", 23),
    ("America/New_York", "08:00", "2025-03-09", 24),
    ("America/New_York", "08:00", "2025-10-31", 24),
    ("America/New_York", "08:00", "2025-11-01", 25),
    ("America/New_York", "08:00", "2025-11-02", 24),
    ("America/New_York", "00:00", "2025-03-08", 24),
    ("America/New_York", "00:00", "2025-03-09", 23),
    ("America/New_York", "00:00", "2025-11-01", 24),
    ("America/New_York", "00:00", "2025-11-02", 25),
    ("America/New_York", "00:00", "2025-11-03", 24),
    ("Asia/Shanghai", "00:00", "1986-05-03", 24),
    ("Asia/Shanghai", "00:00", "1986-05-04", 23),
    ("Asia/Shanghai", "00:00", "1991-09-14", 24),
    ("Asia/Shanghai", "00:00", "1991-09-15", 25),
    ("Asia/Shanghai", "08:00", "1991-09-14", 25),
    ("Asia/Shanghai", "08:00", "2026-11-22", 24),
    ("America/Phoenix", "08:00", "2025-03-08", 24),
    ("America/Phoenix", "08:00", "2025-11-01", 24),
    ("Asia/Kuala_Lumpur", "08:00", "2025-03-08", 24),
    ("Asia/Bangkok", "08:00", "2025-11-01", 24),
    ("Australia/Lord_Howe", "00:00", "2025-04-06", 24.5),
    ("Pacific/Apia", "08:00", "2011-12-30", 0),
]


@pytest.mark.parametrize(("zone", "day_start", "day", "hours"), LENGTHS)
def test_length_of_a_day(zone: str, day_start: str, day: str, hours: float) -> None:
    begin, end = Calendar(ZoneInfo(zone), dt.time.fromisoformat(day_start)).bounds(dt.date.fromisoformat(day))
    assert (end - begin) / HOUR == hours


@pytest.mark.parametrize("zone", ["Asia/Shanghai", "Asia/Kuala_Lumpur", "Asia/Bangkok", "America/Phoenix"])
def test_places_without_summer_time_have_days_of_24_hours(zone: str) -> None:
    calendar = Calendar(ZoneInfo(zone), dt.time(8))
    days = [dt.date(2000, 1, 1) + n * DAY for n in range(366 * 40)]
    starts = [calendar.starts_at(day) for day in days]
    assert {b - a for a, b in itertools.pairwise(starts)} == {DAY}


def test_a_start_that_the_clocks_jump_over_comes_with_the_jump() -> None:
    calendar = Calendar(ZoneInfo("America/New_York"), dt.time(2, 30))
    assert calendar.starts_at(dt.date(2025, 3, 8)) == utc("2025-03-08T07:30")
    assert calendar.starts_at(dt.date(2025, 3, 9)) == utc("2025-03-09T07:30")  # 03:30 by the new clock: 02:30 did not exist
    assert calendar.starts_at(dt.date(2025, 3, 10)) == utc("2025-03-10T06:30")
    assert calendar.day_of(utc("2025-03-09T07:29:59")) == dt.date(2025, 3, 8)
    assert calendar.day_of(utc("2025-03-09T07:30")) == dt.date(2025, 3, 9)


def test_a_start_that_comes_twice_counts_the_first_time() -> None:
    calendar = Calendar(ZoneInfo("America/New_York"), dt.time(1, 30))
    assert calendar.bounds(dt.date(2025, 11, 2)) == (utc("2025-11-02T05:30"), utc("2025-11-03T06:30"))
    assert calendar.day_of(utc("2025-11-02T06:30")) == dt.date(2025, 11, 2)


def test_a_day_that_has_begun_goes_on_when_the_date_goes_back() -> None:
    calendar = Calendar(ZoneInfo("America/St_Johns"), dt.time(0))
    assert calendar.starts_at(dt.date(2010, 11, 7)) == utc("2010-11-07T02:30")
    again = utc("2010-11-07T02:45")
    assert again.astimezone(ZoneInfo("America/St_Johns")).date() == dt.date(2010, 11, 6)
    assert calendar.day_of(again) == dt.date(2010, 11, 7)


def test_the_plants_day_begins_at_eight() -> None:
    calendar = Calendar(ZoneInfo("Asia/Shanghai"), dt.time(8))
    assert calendar.bounds(dt.date(2026, 11, 22)) == (utc("2026-11-22T00:00"), utc("2026-11-23T00:00"))
    assert calendar.day_of(utc("2026-11-21T23:59:59.999999")) == dt.date(2026, 11, 21)
    assert calendar.day_of(utc("2026-11-22T00:00")) == dt.date(2026, 11, 22)
    assert calendar.day_of(dt.datetime(2026, 11, 22, 8, tzinfo=ZoneInfo("Asia/Shanghai"))) == dt.date(2026, 11, 22)
