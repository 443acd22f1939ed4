"""Signals between the main process of a worker and its pool processes, besides those of Celery."""

from __future__ import annotations

import signal
from typing import Final

# Parent to child: finish the current batches and give the job back. Not SIGTERM: Celery ends a
# child at once with it.
STOP_SIGNAL: Final = signal.SIGUSR2
# Child to parent: neither this process nor a successor can serve.
GIVE_UP_SIGNAL: Final = signal.SIGUSR2
