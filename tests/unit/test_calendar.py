"""Production days and shifts tile time without gap or overlap, in every zone, whatever its clocks do."""

from __future__ import annotations

import datetime as dt
import itertools
from pathlib import Path
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mes.calendar import Calendar, Shift, ShiftPlan, Span, clip, of_site, seconds
from mes.plant import EVER
from mes.seeds import load_plant
from tests import naive

ZONES = st.sampled_from(sorted(available_timezones() - {"localtime"}))
DAY_STARTS = st.integers(0, 24 * 12 - 1).map(lambda n: dt.time(n // 12, n % 12 * 5))
INSTANTS = st.datetimes(dt.datetime(1970, 1, 3), dt.datetime(2100, 1, 1), timezones=st.just(dt.UTC))  # noqa: DTZ001 - hypothesis wants it so
DATES = st.dates(dt.date(1970, 1, 3), dt.date(2100, 1, 1))
DAY = dt.timedelta(days=1)
HOUR = dt.timedelta(hours=1)


def utc(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC)


def changes(zone: str) -> list[dt.datetime]:
    """When the clocks of a zone change, to the second, from 1970 to 2040; the first instant of these where they never do."""
    tz = ZoneInfo(zone)
    found, before = [], utc("1970-01-03T00:00")
    while before < utc("2040-01-01T00:00"):
        after = before + 20 * DAY
        if before.astimezone(tz).utcoffset() != after.astimezone(tz).utcoffset():
            low, high = 0, 20 * 86400
            while high - low > 1:
                middle = (low + high) // 2
                same = (before + dt.timedelta(seconds=middle)).astimezone(tz).utcoffset() == before.astimezone(tz).utcoffset()
                low, high = (middle, high) if same else (low, middle)
            found.append(before + dt.timedelta(seconds=high))
        before = after
    return found or [utc("1970-01-03T00:00")]


CHANGES = {zone: changes(zone) for zone in sorted(available_timezones() - {"localtime"})}


def local_time(minutes: int) -> dt.time:
    return dt.time(minutes // 60 % 24, minutes % 60)


@st.composite
def plans(draw: st.DrawFn, day_start: dt.time) -> tuple[Shift, ...]:
    """One to five shifts around the day from `day_start`, with boundaries at multiples of five minutes and up to two breaks each."""
    start = day_start.hour * 60 + day_start.minute
    cuts = [0, *sorted(5 * n for n in draw(st.sets(st.integers(1, 287), max_size=4))), 1440]
    out = []
    for name, (first, last) in zip("abcde", itertools.pairwise(cuts), strict=False):
        edges = sorted(draw(st.sets(st.integers(first, last), max_size=4)))
        pauses = zip(edges[::2], edges[1::2], strict=False)
        breaks = tuple((local_time(start + b), local_time(start + e)) for b, e in pauses)
        out.append(Shift(name, local_time(start + first), local_time(start + last), breaks))
    return tuple(out)


DAY_AND_PLAN = DAY_STARTS.flatmap(lambda day_start: st.tuples(st.just(day_start), plans(day_start)))


def check_tiling(calendar: Calendar, instant: dt.datetime) -> None:
    """`instant` lies in exactly one of the days around it, and in exactly one shift of that day; days and shifts tile."""
    day = calendar.day_of(instant)
    around = [day + n * DAY for n in range(-2, 3)]
    bounds = [calendar.bounds(d) for d in around]
    assert [d for d, (begin, end) in zip(around, bounds, strict=True) if begin <= instant < end] == [day]
    assert all(end == begin for (_, end), (begin, _) in itertools.pairwise(bounds))
    assert all(begin <= end for begin, end in bounds)
    assert all(moment.utcoffset() == dt.timedelta(0) for pair in bounds for moment in pair)
    shifts = calendar.shifts(day)
    assert len([s for s in shifts if s.begin <= instant < s.end]) == 1
    edges = [bounds[2][0], *(s.end for s in shifts)]
    assert [s.begin for s in shifts] == edges[:-1]
    assert edges == sorted(edges)
    assert edges[-1] == bounds[2][1]
    planned = calendar.regular(day)
    assert all(begin < end for begin, end in planned)
    assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(planned))
    assert clip(planned, *bounds[2]) == planned
    assert sum(seconds(clip(planned, s.begin, s.end)) for s in shifts) == seconds(planned) <= seconds([bounds[2]])


@given(INSTANTS, DAY_AND_PLAN, st.integers(0, 10_000), st.integers(-50 * 3600, 50 * 3600))
@settings(deadline=None, max_examples=40)
def test_every_instant_lies_in_one_day_and_one_shift_in_every_zone(
    instant: dt.datetime, day_and_plan: tuple[dt.time, tuple[Shift, ...]], change: int, off: int
) -> None:
    """All zones with each example: at the instant drawn, and close to one of the changes of the clocks there."""
    day_start, plan = day_and_plan
    for zone, moments in CHANGES.items():
        calendar = Calendar(ZoneInfo(zone), day_start, (ShiftPlan(EVER, plan),))
        for moment in (instant, moments[change % len(moments)] + dt.timedelta(seconds=off)):
            try:
                check_tiling(calendar, moment)
            except AssertionError as why:
                raise AssertionError(f"{zone} at {moment}") from why


def plan_of(*times: str) -> tuple[ShiftPlan, ...]:
    """One plan, from ever, of shifts that begin at these local times."""
    at = [dt.time.fromisoformat(time) for time in times]
    return (ShiftPlan(EVER, tuple(Shift(f"{start:%H:%M}", start, end) for start, end in zip(at, [*at[1:], at[0]], strict=True))),)


ODD = [
    ("2011-12-30T10:00", "Pacific/Apia", dt.time(0)),  # 2011-12-30 was left out there
    ("2011-12-30T09:59:59.999999", "Pacific/Apia", dt.time(0)),
    ("1993-08-21T12:00", "Pacific/Kwajalein", dt.time(0)),  # so was 1993-08-21
    ("2025-03-09T07:30", "America/New_York", dt.time(2, 30)),
    ("2025-03-09T07:29:59", "America/New_York", dt.time(2, 30)),
    ("2025-11-02T05:30", "America/New_York", dt.time(1, 30)),  # the first of two
    ("2025-11-02T06:30", "America/New_York", dt.time(1, 30)),  # the second
    ("2018-11-04T03:00", "America/Sao_Paulo", dt.time(0)),  # no midnight on that day
    ("2010-11-07T02:45", "America/St_Johns", dt.time(0)),  # clocks went back from 00:01 to 23:01 of the day before
    ("2005-04-03T10:30", "Australia/Lord_Howe", dt.time(2)),  # half an hour of summer time
]


@pytest.mark.parametrize(("at", "zone", "day_start"), ODD)
@pytest.mark.parametrize("turns", [["02:00", "02:30", "03:00"], ["00:00", "12:00"], ["01:15", "01:45", "23:30"]])
def test_odd_days_tile_too(at: str, zone: str, day_start: dt.time, turns: list[str]) -> None:
    later = sorted({t for t in map(dt.time.fromisoformat, turns) if t != day_start}, key=lambda t: (t < day_start, t))
    calendar = Calendar(ZoneInfo(zone), day_start, plan_of(day_start.isoformat(), *(t.isoformat() for t in later)))
    check_tiling(calendar, utc(at))


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


# --- shifts and planned time -------------------------------------------------------------------------------------------

SEEDS = Path(__file__).resolve().parents[2] / "seeds"


def shift_times(calendar: Calendar, day: str) -> list[tuple[str, str, float]]:
    """(name, begin in UTC, hours) of each shift."""
    found = calendar.shifts(dt.date.fromisoformat(day))
    return [(s.name, f"{s.begin:%d %H:%M}", (s.end - s.begin) / HOUR) for s in found]


def hours(spans: list[Span]) -> float:
    return seconds(spans) / 3600


@pytest.mark.parametrize("site", ["dalian", "nanjing"])
def test_the_plants_work_two_shifts_of_twelve_hours_around_the_clock(site: str) -> None:
    calendar = of_site(load_plant(SEEDS).sites[site])
    assert shift_times(calendar, "2026-11-22") == [("day", "22 00:00", 12), ("night", "22 12:00", 12)]
    assert calendar.scheduled(dt.date(2026, 11, 22)) == [(utc("2026-11-22T00:00"), utc("2026-11-23T00:00"))]


NEW_YORK = Calendar(ZoneInfo("America/New_York"), dt.time(8), plan_of("08:00", "20:00"))


@pytest.mark.parametrize(
    ("day", "expected"),
    [
        ("2025-03-07", [("08:00", "07 13:00", 12), ("20:00", "08 01:00", 12)]),
        ("2025-03-08", [("08:00", "08 13:00", 12), ("20:00", "09 01:00", 11)]),
        ("2025-03-09", [("08:00", "09 12:00", 12), ("20:00", "10 00:00", 12)]),
        ("2025-11-01", [("08:00", "01 12:00", 12), ("20:00", "02 00:00", 13)]),
        ("2025-11-02", [("08:00", "02 13:00", 12), ("20:00", "03 01:00", 12)]),
    ],
)
def test_the_night_shift_over_a_change_of_clocks_is_as_long_as_it_is(day: str, expected: list[tuple[str, str, float]]) -> None:
    """kpis.md 4: the short day is the one that starts on Saturday 2025-03-08, the long one Saturday 2025-11-01."""
    assert shift_times(NEW_YORK, day) == expected
    assert hours(NEW_YORK.scheduled(dt.date.fromisoformat(day))) == sum(length for _, _, length in expected)


def test_the_night_shift_belongs_to_the_day_on_which_it_began() -> None:
    at = utc("2025-11-02T06:30")  # 01:30 in New York, the second time
    day = NEW_YORK.day_of(at)
    assert day == dt.date(2025, 11, 1)
    assert [s.name for s in NEW_YORK.shifts(day) if s.begin <= at < s.end] == ["20:00"]


def test_a_boundary_that_comes_twice_or_never() -> None:
    calendar = Calendar(ZoneInfo("America/New_York"), dt.time(20), plan_of("20:00", "01:30", "02:30", "03:00"))
    assert shift_times(calendar, "2025-11-01") == [  # 01:30 for the first time at 05:30Z, clocks back at 06:00Z
        ("20:00", "02 00:00", 5.5), ("01:30", "02 05:30", 2), ("02:30", "02 07:30", 0.5), ("03:00", "02 08:00", 17),
    ]  # fmt: skip
    assert shift_times(calendar, "2025-03-08") == [  # 02:30 did not exist: 03:30, which is behind 03:00
        ("20:00", "09 01:00", 5.5), ("01:30", "09 06:30", 1), ("02:30", "09 07:30", 0), ("03:00", "09 07:30", 16.5),
    ]  # fmt: skip


def test_a_day_that_is_left_out_has_shifts_without_length() -> None:
    calendar = Calendar(ZoneInfo("Pacific/Apia"), dt.time(8), plan_of("08:00", "20:00"))
    assert [length for _, _, length in shift_times(calendar, "2011-12-30")] == [0, 0]
    assert calendar.scheduled(dt.date(2011, 12, 30)) == []


def three_shifts(holidays: frozenset[dt.date] = frozenset(), stops: tuple[Span, ...] = ()) -> Calendar:
    """A South-East Asian plant: three shifts of eight hours, each with half an hour's break, that of the night after midnight."""
    t = dt.time
    shifts = (
        Shift("morning", t(7), t(15), ((t(11), t(11, 30)),)),
        Shift("evening", t(15), t(23), ((t(19), t(19, 30)),)),
        Shift("night", t(23), t(7), ((t(3), t(3, 30)),)),
    )
    return Calendar(ZoneInfo("Asia/Kuala_Lumpur"), t(7), (ShiftPlan(EVER, shifts),), holidays, stops)


def test_three_shifts_with_breaks() -> None:
    calendar = three_shifts()
    day = dt.date(2025, 3, 9)
    assert shift_times(calendar, "2025-03-09") == [("morning", "08 23:00", 8), ("evening", "09 07:00", 8), ("night", "09 15:00", 8)]
    assert calendar.scheduled(day) == [
        (utc("2025-03-08T23:00"), utc("2025-03-09T03:00")),
        (utc("2025-03-09T03:30"), utc("2025-03-09T11:00")),
        (utc("2025-03-09T11:30"), utc("2025-03-09T19:00")),
        (utc("2025-03-09T19:30"), utc("2025-03-09T23:00")),
    ]
    assert [hours(clip(calendar.scheduled(day), s.begin, s.end)) for s in calendar.shifts(day)] == [7.5, 7.5, 7.5]


def test_a_break_may_end_with_its_day() -> None:
    night = Shift("night", dt.time(20), dt.time(8), ((dt.time(7, 45), dt.time(8)),))
    calendar = Calendar(ZoneInfo("Asia/Shanghai"), dt.time(8), (ShiftPlan(EVER, (Shift("day", dt.time(8), dt.time(20)), night)),))
    assert calendar.regular(dt.date(2026, 11, 22)) == [(utc("2026-11-22T00:00"), utc("2026-11-22T23:45"))]


def test_nothing_is_planned_on_a_holiday_but_the_shifts_stand() -> None:
    day = dt.date(2026, 2, 17)
    calendar = three_shifts(frozenset({day}))
    assert calendar.scheduled(day) == []
    assert hours(calendar.regular(day)) == 22.5
    assert calendar.shifts(day) == three_shifts().shifts(day)
    assert [hours(calendar.scheduled(day + n * DAY)) for n in (-1, 1)] == [22.5, 22.5]


def test_a_planned_stop_over_the_boundary_of_two_days_takes_from_both() -> None:
    stop = (utc("2026-02-16T19:15"), utc("2026-02-17T01:00"))  # from within the night's break to two hours into the morning
    calendar = three_shifts(stops=(stop, stop))  # said twice it is still one
    first, second = dt.date(2026, 2, 16), dt.date(2026, 2, 17)
    assert hours(calendar.scheduled(first)) == 22.5 - 3.5
    assert hours(calendar.scheduled(second)) == 22.5 - 2
    assert calendar.scheduled(first)[-1][1] == utc("2026-02-16T19:00")
    assert calendar.scheduled(second)[0][0] == utc("2026-02-17T01:00")
    assert hours(calendar.regular(first)) == hours(calendar.scheduled(dt.date(2026, 2, 18))) == 22.5


def test_a_plan_holds_from_its_day_on() -> None:
    early, late = plan_of("08:00", "20:00")[0], ShiftPlan(dt.date(2026, 1, 1), plan_of("08:00", "16:00", "00:00")[0].shifts)
    calendar = Calendar(ZoneInfo("Asia/Shanghai"), dt.time(8), (early, late))
    assert [len(calendar.shifts(dt.date(*day))) for day in ((1990, 1, 1), (2025, 12, 31), (2026, 1, 1), (2030, 1, 1))] == [2, 2, 3, 3]


def test_by_default_a_day_is_one_shift() -> None:
    calendar = Calendar(ZoneInfo("Asia/Shanghai"), dt.time(8))
    assert shift_times(calendar, "2026-11-22") == [("day", "22 00:00", 24)]
    assert hours(calendar.scheduled(dt.date(2026, 11, 22))) == 24


STOPS = st.lists(st.tuples(st.integers(-1500, 3000), st.integers(1, 1500)), max_size=3)


@given(DAY_AND_PLAN, st.sampled_from(sorted(CHANGES)), st.integers(0, 10_000), st.integers(-3, 3), STOPS, st.booleans())
@settings(deadline=None, max_examples=100)
def test_planned_time_is_that_of_a_count_minute_by_minute(
    day_and_plan: tuple[dt.time, tuple[Shift, ...]], zone: str, change: int, off: int, stops: list[tuple[int, int]], holiday: bool
) -> None:
    day_start, plan = day_and_plan
    moment = CHANGES[zone][change % len(CHANGES[zone])]
    day = max(moment.date(), dt.date(1973, 1, 1)) + off * DAY  # Liberia's clocks were 44 minutes and 30 seconds off until 1972
    zero = dt.datetime.combine(day, dt.time(), dt.UTC)
    spans = tuple((zero + dt.timedelta(minutes=a), zero + dt.timedelta(minutes=a + n)) for a, n in stops)
    holidays = frozenset({day} if holiday else ())
    calendar = Calendar(ZoneInfo(zone), day_start, (ShiftPlan(EVER, plan),), holidays, spans)

    def since_start(t: dt.time) -> int:
        return (t.hour * 60 + t.minute - day_start.hour * 60 - day_start.minute) % 1440

    breaks = [(since_start(a), since_start(b) or 1440) for shift in plan for a, b in shift.breaks]
    assert seconds(calendar.regular(day)) == 60 * naive.planned_minutes(zone, day, day_start, breaks)
    assert seconds(calendar.scheduled(day)) == 60 * naive.planned_minutes(zone, day, day_start, breaks, holidays, spans)
