"""The windows in which a campaign may run: local wall-clock times of a time zone.

A window is an interval from one moment to another, not a set of clock readings. A night in which
the clock is put forward is an hour shorter, and one in which it is put back an hour longer. A time
that the clock skips stands for the moment of the change, and of a time that it shows twice the
first counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from functools import cached_property
from typing import Any, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, ConfigDict, ValidationError

from hilum.errors import WindowInvalidError
from hilum.errors.validation import problems

_TEXT: Final = re.compile(r"(\d{1,2}):(\d{2})-(\d{1,2}):(\d{2})")
_DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_LOOK_AHEAD: Final = 15  # days: more than any week with a night lost to a change of the clock


class Overlap(StrEnum):
    """What the start of a nightly campaign does while that of an earlier night is not done."""

    SKIP = "skip"  # the earlier one goes on, and none is created
    REPLACE = "replace"  # the earlier one is cancelled
    ALLOW = "allow"  # both run


class Window(BaseModel):
    """Each day of ``days`` from ``start`` until ``end``, which may be on the day after."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    start: time
    end: time
    days: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6)  # of the start; Monday is 0
    time_zone: str
    overlap: Overlap = Overlap.SKIP

    @classmethod
    def parse(
        cls, text: str, *, time_zone: str, days: str = "", overlap: Overlap = Overlap.SKIP
    ) -> Window:
        """The window of a text such as ``22:00-06:00`` and of days such as ``mon,tue``.

        Raises:
            WindowInvalidError: a part is not valid, or the window never opens.
        """
        parts = _TEXT.fullmatch(text.strip())
        names = [name.strip().lower()[:3] for name in days.split(",") if name.strip()]
        if parts is None or not set(names) <= set(_DAYS):
            raise WindowInvalidError(
                "A window is HH:MM-HH:MM, and its days are some of mon, tue, …, sun."
            )
        hours = [int(part) for part in parts.groups()]
        try:
            return cls.checked(
                {
                    "start": time(hours[0], hours[1]),
                    "end": time(hours[2], hours[3]),
                    "days": [_DAYS.index(name) for name in names] or range(7),
                    "time_zone": time_zone,
                    "overlap": overlap,
                }
            )
        except ValueError:
            raise WindowInvalidError("A time of the window is not a time of day.") from None

    @classmethod
    def checked(cls, document: dict[str, Any]) -> Window:
        """The window that a document describes.

        Raises:
            WindowInvalidError: it is not valid, or never opens.
        """
        try:
            window = cls.model_validate(document)
        except ValidationError as error:
            raise WindowInvalidError(f"The window is not valid: {problems(error)}.") from None
        try:
            window._zone  # noqa: B018 - raises
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise WindowInvalidError("The time zone of the window is not known.") from None
        if window.start == window.end or window.start.tzinfo or window.end.tzinfo:
            raise WindowInvalidError("The window must end at another time than it starts.")
        if not window.days or not set(window.days) <= set(range(7)):
            raise WindowInvalidError("The window never opens: it has no valid days.")
        if window.following(datetime.now(UTC)) is None:
            raise WindowInvalidError("The window never opens.")
        return window

    def document(self) -> dict[str, Any]:
        """As :meth:`checked` reads it."""
        return self.model_dump(mode="json")

    def opening(self, now: datetime) -> tuple[datetime, datetime] | None:
        """The start and end (UTC) of the window that is open ``now``, if one is."""
        return next((one for one in self._around(now, 2, 1) if one[0] <= now < one[1]), None)

    def previous(self, now: datetime) -> tuple[datetime, datetime] | None:
        """The start and end (UTC) of the last window that has closed."""
        closed = [one for one in self._around(now, _LOOK_AHEAD, 1) if one[1] <= now]
        return max(closed, default=None)

    def following(self, now: datetime) -> tuple[datetime, datetime] | None:
        """The start and end (UTC) of the next window that opens after ``now``."""
        return next((one for one in self._around(now, 2, _LOOK_AHEAD) if one[0] > now), None)

    def _around(
        self, now: datetime, before: int, after: int
    ) -> Iterator[tuple[datetime, datetime]]:
        today = now.astimezone(self._zone).date()
        for offset in range(-before, after + 1):
            day = today + timedelta(days=offset)
            if day.weekday() not in self.days:
                continue
            next_day = self.end <= self.start
            start = self._moment(day, self.start)
            end = self._moment(day + timedelta(days=next_day), self.end)
            if start < end:  # not a window that lies within a skipped hour
                yield start, end

    def _moment(self, day: date, at: time) -> datetime:
        """The moment in UTC."""
        local = datetime.combine(day, at, tzinfo=self._zone)
        moment = local.astimezone(UTC)
        back = moment.astimezone(self._zone)
        if back.replace(tzinfo=None) == local.replace(tzinfo=None):
            return moment
        # The clock skips this time. Its offset is that of before the change (PEP 495), so that
        # the moment lies as far behind the change as the time lies behind the last one shown.
        skipped = local.replace(fold=1).utcoffset(), local.replace(fold=0).utcoffset()
        assert skipped[0] is not None
        assert skipped[1] is not None
        gap = abs(skipped[0] - skipped[1])
        low, high = moment - gap, moment
        before = low.astimezone(self._zone).utcoffset()
        while high - low > timedelta(seconds=1):
            middle = low + (high - low) / 2
            if middle.astimezone(self._zone).utcoffset() == before:
                low = middle
            else:
                high = middle
        return high.replace(microsecond=0)

    @cached_property
    def _zone(self) -> ZoneInfo:
        return ZoneInfo(self.time_zone)
