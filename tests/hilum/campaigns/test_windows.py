"""Nightly windows, through both changes of the clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from hilum.campaigns.windows import Window
from hilum.errors import WindowInvalidError

BERLIN = "Europe/Berlin"


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def window(text: str, zone: str = BERLIN, **options: Any) -> Window:
    return Window.parse(text, time_zone=zone, **options)


@pytest.mark.parametrize(
    ("now", "text", "start", "end"),
    [
        # An ordinary night.
        ("2024-01-10T22:30", "22:00-06:00", "2024-01-10T21:00", "2024-01-11T05:00"),
        # Put forward on 31 March 2024 at 2:00: an hour shorter.
        ("2024-03-30T23:00", "22:00-06:00", "2024-03-30T21:00", "2024-03-31T04:00"),
        # Put back on 27 October 2024 at 3:00: an hour longer.
        ("2024-10-26T23:00", "22:00-06:00", "2024-10-26T20:00", "2024-10-27T05:00"),
        # A start that is skipped is the moment of the change, and so is an end.
        ("2024-03-31T02:00", "02:30-06:00", "2024-03-31T01:00", "2024-03-31T04:00"),
        ("2024-03-31T00:30", "01:00-02:30", "2024-03-31T00:00", "2024-03-31T01:00"),
        # Of a time that is shown twice, the first.
        ("2024-10-27T00:45", "02:30-06:00", "2024-10-27T00:30", "2024-10-27T05:00"),
        ("2024-10-27T00:15", "01:00-02:30", "2024-10-26T23:00", "2024-10-27T00:30"),
    ],
)
def test_when_it_is_open(now: str, text: str, start: str, end: str) -> None:
    assert window(text).opening(utc(now)) == (utc(start), utc(end))


def test_it_is_shut_again_while_the_clock_shows_the_same_hour_twice() -> None:
    night = window("01:00-02:30")
    assert night.opening(utc("2024-10-27T00:29")) is not None
    assert night.opening(utc("2024-10-27T00:30")) is None
    assert night.opening(utc("2024-10-27T01:15")) is None, "2:15 for the second time"


def test_a_window_within_the_skipped_hour_is_left_out_that_night() -> None:
    night = window("02:15-02:45")
    following = night.following(utc("2024-03-30T12:00"))
    assert following == (utc("2024-04-01T00:15"), utc("2024-04-01T00:45"))


def test_every_moment_of_a_year_belongs_to_at_most_one_window() -> None:
    night = window("22:00-06:00", "America/New_York")
    now, seen = utc("2024-01-01T12:00"), set()
    while now < utc("2025-01-01T12:00"):
        if (opening := night.opening(now)) is not None:
            assert opening[0] <= now < opening[1]
            seen.add(opening)
        else:
            before, after = night.previous(now), night.following(now)
            assert before is not None
            assert after is not None
            assert before[1] <= now < after[0]
            assert after[0] - before[1] == timedelta(hours=16)
        now += timedelta(minutes=47)
    assert len(seen) == 366
    assert sorted((end - start).total_seconds() / 3600 for start, end in seen)[:2] == [7, 8]


def test_days_are_those_of_the_start() -> None:
    weekend = window("22:00-06:00", "UTC", days="fri, sat")
    assert weekend.opening(utc("2024-06-02T05:00")) is not None  # Sunday morning
    assert weekend.opening(utc("2024-06-02T23:00")) is None
    assert weekend.following(utc("2024-06-02T12:00")) == (
        utc("2024-06-07T22:00"),
        utc("2024-06-08T06:00"),
    )
    assert Window.checked(weekend.document()) == weekend


@pytest.mark.parametrize(
    ("text", "zone", "days"),
    [
        ("22:00", BERLIN, ""),
        ("25:00-06:00", BERLIN, ""),
        ("22:00-22:00", BERLIN, ""),
        ("22:00-06:00", "Mars/Olympus", ""),
        ("22:00-06:00", "../../etc/passwd", ""),
        ("22:00-06:00", BERLIN, "someday"),
    ],
)
def test_what_is_no_window(text: str, zone: str, days: str) -> None:
    with pytest.raises(WindowInvalidError):
        window(text, zone, days=days)


def test_a_window_without_days_never_opens() -> None:
    document = {"start": "22:00", "end": "06:00", "time_zone": BERLIN, "days": []}
    with pytest.raises(WindowInvalidError, match="never opens"):
        Window.checked(document)
