"""``python -m support.fuzz.run [--files N] [--report FILE]``: how thousands of broken files end.

Every file goes through a real decode process, as in a worker. The run fails if anything but a
typed error or a result comes back, if a file takes much more CPU time than the limit, if an answer
does not come at all, or if a decode process ever takes more memory than its limit.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from support.fuzz.hostile import hostile
from support.fuzz.mutations import mutated
from support.fuzz.seeds import seeds

from hilum.errors import DecodersUnavailableError, HilumError, UnexpectedError
from hilum.imaging.spec import PreprocessSpec
from hilum.packages.manifest import InputPolicy
from hilum.pipeline.admit import admit
from hilum.pipeline.examine import examiner
from hilum.pipeline.stages import ExamineOptions
from hilum.sandbox import Decoders
from hilum.sandbox.process import DecodeProcess
from hilum.sandbox.wire import Message
from hilum.session import DECODE_TASKS
from hilum.settings import Limits

UNGUARDED = ("-m", "support.unguarded_decoder")
_GRACE_S = 1.0
_ANSWER_S = 120.0  # at most, on a busy machine too: a process may have to start first
_HOSTILE = 0.1  # share of files that are hostile by their grammar


@dataclass
class Tally:
    """What happened."""

    codes: Counter[str] = field(default_factory=Counter)
    unexpected: Counter[str] = field(default_factory=Counter)  # where hilum itself was wrong
    untyped: list[str] = field(default_factory=list)
    slowest_s: float = 0.0  # CPU time of a decode process for one file
    longest_s: float = 0.0  # from a request to its answer
    peak_bytes: int = 0
    seconds: float = 0.0

    def failures(self, limits: Limits) -> list[str]:
        """What must not happen and did."""
        found = [f"not a typed error: {what}" for what in self.untyped]
        found += [f"{place}, {n} times" for place, n in self.unexpected.items()]
        if self.slowest_s > limits.max_decode_s + _GRACE_S:
            found.append(f"a file took {self.slowest_s:.1f} s of CPU time")
        if self.longest_s > _ANSWER_S:
            found.append(f"an answer took {self.longest_s:.1f} s")
        if self.peak_bytes > limits.max_decode_bytes:
            found.append(f"a decode process took {self.peak_bytes} bytes")
        return found


def files(count: int, *, seed: int, step: int = 1) -> Iterator[tuple[int, Callable[[], bytes]]]:
    """``count`` broken files, each by its number; first each ``step``-th of the hostile ones."""
    whole = seeds()
    grammar = hostile()[::step]
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        if number < len(grammar):
            yield number, grammar[number]
        elif rng.random() < _HOSTILE:
            made = grammar[int(rng.integers(len(grammar)))]
            yield number, lambda made=made, rng=rng: mutated(made()[: 1 << 20], rng, whole)
        else:
            chosen = whole[int(rng.integers(len(whole)))]
            yield number, lambda chosen=chosen, rng=rng: mutated(chosen, rng, whole)


def run(
    count: int,
    *,
    seed: int,
    limits: Limits,
    processes: int,
    step: int = 1,
    program: Sequence[str] = UNGUARDED,
) -> Tally:
    """Drive ``count`` files through ``processes`` decode processes."""
    tally, lock = Tally(), threading.Lock()
    with (
        Decoders(processes, limits, tasks=DECODE_TASKS, program=program) as decoders,
        _watched(tally),
    ):
        policy = InputPolicy()
        ways = [
            examiner(
                ExamineOptions(
                    preprocess=PreprocessSpec(size=64, decode=how),
                    policy=policy,
                    limits=limits,
                    preview_side=side,
                ),
                decoders,
            )
            for how, side in (("exact", None), ("reduced", 48))
        ]

        def one(numbered: tuple[int, Callable[[], bytes]]) -> None:
            number, made = numbered
            data = made()
            began = time.monotonic()
            code = _end(lambda: admit(ways[number % 2](data), policy), tally)
            took = time.monotonic() - began
            with lock:
                tally.codes[code] += 1
                tally.longest_s = max(tally.longest_s, took)

        began = time.monotonic()
        decoders.warm()
        with ThreadPoolExecutor(processes) as pool:
            pending = files(count, seed=seed, step=step)
            while batch := [item for _, item in zip(range(200), pending, strict=False)]:
                list(pool.map(one, batch))
        tally.seconds = time.monotonic() - began
    return tally


def _end(prepare: Callable[[], object], tally: Tally) -> str:
    try:
        prepare()
    except UnexpectedError as error:
        tally.unexpected[error.detail] += 1
        return error.code
    except DecodersUnavailableError as error:
        tally.untyped.append(error.detail)
        return error.code
    except HilumError as error:
        return error.code
    except Exception as error:
        tally.untyped.append(f"{type(error).__name__}: {error}")
        return "untyped"
    return "prepared"


def _cpu_s(pid: int) -> float:
    """CPU time of a process so far; 0 once it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class _watched:
    """Notes the largest peak of any decode process, and the most CPU time for one file, until the
    end of the block."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._stop = threading.Event()
        self._pids: set[int] = set()
        self._real = DecodeProcess.__init__, DecodeProcess.ask

    def __enter__(self) -> None:
        (real, ask), pids, tally = self._real, self._pids, self._tally

        def noted(process: DecodeProcess, *args: object, **named: object) -> None:
            real(process, *args, **named)  # type: ignore[arg-type]
            pids.add(process.pid)

        def timed(process: DecodeProcess, request: Message) -> tuple[Message | HilumError, bool]:
            began = _cpu_s(process.pid)
            answer = ask(process, request)
            tally.slowest_s = max(tally.slowest_s, _cpu_s(process.pid) - began)
            return answer

        DecodeProcess.__init__ = noted  # type: ignore[method-assign, assignment]
        DecodeProcess.ask = timed  # type: ignore[method-assign]
        threading.Thread(target=self._watch, daemon=True).start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        DecodeProcess.__init__, DecodeProcess.ask = self._real  # type: ignore[method-assign]

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            for pid in list(self._pids):
                try:
                    status = Path(f"/proc/{pid}/status").read_text()
                except OSError:
                    self._pids.discard(pid)
                    continue
                for line in status.splitlines():
                    if line.startswith("VmHWM:"):
                        peak = int(line.split()[1]) * 1024
                        self._tally.peak_bytes = max(self._tally.peak_bytes, peak)


def main() -> None:
    """Run and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument(
        "--limit-s", type=float, default=30.0, help="of wall-clock time, for a file"
    )
    parser.add_argument("--report", type=Path)
    arguments = parser.parse_args()
    limits = Limits(max_decode_s=arguments.limit_s)
    tally = run(arguments.files, seed=arguments.seed, limits=limits, processes=arguments.processes)
    report = {
        "files": sum(tally.codes.values()),
        "seed": arguments.seed,
        "seconds": round(tally.seconds),
        "slowest_cpu_s": round(tally.slowest_s, 2),
        "longest_answer_s": round(tally.longest_s, 2),
        "peak_mib": round(tally.peak_bytes / 2**20),
        "codes": dict(tally.codes.most_common()),
        "failures": tally.failures(limits),
    }
    text = json.dumps(report, indent=2)
    if arguments.report:
        arguments.report.parent.mkdir(parents=True, exist_ok=True)
        arguments.report.write_text(text + "\n")
    print(text)  # noqa: T201
    sys.exit(1 if report["failures"] else 0)


if __name__ == "__main__":
    main()
