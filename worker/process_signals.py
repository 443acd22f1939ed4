"""Signals between a worker's main process and its pool processes, beside those of Celery."""

from __future__ import annotations

import signal
from typing import Final

# Parent to child: finish the batches in hand and give the job back. Not SIGTERM, with which
# Celery ends a child at once.
STOP_SIGNAL: Final = signal.SIGUSR2
# Child to parent: this process cannot serve, and neither could its successor.
GIVE_UP_SIGNAL: Final = signal.SIGUSR2
