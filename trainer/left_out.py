"""The films of a data set that cannot be used: counted, listed, and limited in number."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from hilum.files import write_atomically
from trainer.errors import BadImagesError, CacheWriteError, writing
from trainer.manifest import SPLITS, Record
from trainer.prepare import Problem

REPORT: Final = "left-out.csv"
_DUPLICATE: Final = "data.duplicate"


class LeftOut:
    """The films that are left out of the folder of a data set."""

    def __init__(self, folder: Path, records: Sequence[Record], max_bad_fraction: float) -> None:
        """Args: ``folder`` of the training cache, ``records`` of the data-set table."""
        self._folder = folder
        self._records = records
        self._allowed = max_bad_fraction
        self._problems: list[Problem] = []

    @property
    def rows(self) -> set[int]:
        """Their rows in the data-set table."""
        return {problem.record for problem in self._problems}

    @property
    def counts(self) -> dict[str, int]:
        """Their number by error code, the most frequent first."""
        return dict(Counter(problem.code for problem in self._problems).most_common())

    def add(self, problem: Problem) -> None:
        """Leave out one more film.

        Raises:
            BadImagesError: more films are left out than is allowed. They are listed.
        """
        self._problems.append(problem)
        if len(self._problems) > self._allowed * len(self._records):
            self.write_report()
            self.check(self.counts)

    def add_duplicates(self, digests: npt.NDArray[np.bytes_]) -> None:
        """Leave out all films but one of those whose files, by their ``digests``, are the same. A
        film that is tested on stays, otherwise the first.

        The same film in training and test would be a leak, whoever its patient is.
        """
        groups: dict[bytes, list[int]] = {}
        unusable = self.rows
        for n, digest in enumerate(digests):
            if n not in unusable:
                groups.setdefault(bytes(digest), []).append(n)
        records = self._records
        for group in groups.values():
            keeper = max(group, key=lambda n: (SPLITS.index(records[n].split), -n))
            for n in group:
                if n == keeper:
                    continue
                detail = f"The same file as in line {keeper + 2}."
                kept = records[keeper].targets
                if not np.array_equal(records[n].targets, kept, equal_nan=True):
                    detail += " Its labels differ."
                self._problems.append(Problem(record=n, code=_DUPLICATE, detail=detail))

    def write_report(self) -> None:
        """Write ``left-out.csv``: line, split and address in the data-set table, and the problem.

        Raises:
            CacheWriteError: the disk is full.
        """
        out = io.StringIO()
        writer = csv.writer(out)
        writer.writerow(["line", "split", "uri", "code", "detail"])
        for p in sorted(self._problems, key=lambda problem: problem.record):
            record = self._records[p.record]
            writer.writerow([p.record + 2, record.split, record.uri, p.code, p.detail])
        with writing(self._folder / REPORT, CacheWriteError):
            write_atomically(self._folder / REPORT, out.getvalue().encode())

    def check(self, counts: dict[str, int]) -> None:
        """Check the number of films that are left out, by their error code.

        Raises:
            BadImagesError: it is larger than is allowed.
        """
        count, total = sum(counts.values()), len(self._records)
        if count > self._allowed * total:
            raise BadImagesError(
                f"{count} of {total} films cannot be used ({in_words(counts)}); at most "
                f"{self._allowed:.2%} may be left out. They are listed in {self._folder / REPORT}."
            )


def rows_to_retry(folder: Path) -> list[int]:
    """The rows of the data-set table that a finished folder leaves out, but not as duplicates."""
    try:
        with (folder / REPORT).open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["code"] != _DUPLICATE]
            return [int(row["line"]) - 2 for row in rows]
    except (OSError, KeyError, ValueError):
        return []  # the report is damaged, so nobody knows


def in_words(counts: dict[str, int]) -> str:
    """For example ``3 dicom.decode_failed, 1 data.duplicate``."""
    return ", ".join(f"{count} {code}" for code, count in counts.items())
