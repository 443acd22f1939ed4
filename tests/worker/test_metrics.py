"""What Prometheus sees of a worker's processes."""

from __future__ import annotations

import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from worker import metrics

PROCESS = """
import sys
from worker import metrics
metrics.show_engine(sys.argv[1], sys.argv[2])
metrics.count_batch(sys.argv[1], images=3, seconds=0.5)
print("ready", flush=True)
sys.stdin.read()
"""


@contextmanager
def process(engine: str, reason: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", PROCESS, engine, reason]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "ready\n"
        yield running
        running.kill()


def engines(port: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    found = [line.rpartition(" ") for line in lines if line.startswith("hilum_engine_")]
    return {name: float(value) for name, _, value in found}


def test_which_engine_runs_and_why_is_a_gauge_of_the_processes_that_live() -> None:
    """As they are: one that was killed, as by the kernel for want of memory, does not count on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    cpu = 'hilum_engine_info{engine="onnxruntime-cpu",reason="auto:engine.missing"}'
    gpu = 'hilum_engine_info{engine="tensorrt-11",reason="auto"}'
    with metrics.serve(f"127.0.0.1:{port}"), process("onnxruntime-cpu", "auto:engine.missing"):
        with process("onnxruntime-cpu", "auto:engine.missing"), process("tensorrt-11", "auto"):
            shown = engines(port)
            assert (shown[cpu], shown[gpu]) == (2, 1)
        shown = engines(port)
        assert shown[cpu] == 1
        assert gpu not in shown
        assert shown['hilum_engine_images_total{engine="tensorrt-11"}'] == 3
