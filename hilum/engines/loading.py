"""Open the engine that the settings ask for, and say which it is and why."""

from __future__ import annotations

import logging

from hilum.engines.golden import check_golden
from hilum.engines.selection import ChosenEngine, choose
from hilum.errors import EngineMissingError, EngineUnavailableError
from hilum.packages.load import Package, check_signature
from hilum.settings import Settings

__all__ = ["check_golden", "open_engine"]

log = logging.getLogger(__name__)


def open_engine(package: Package, settings: Settings) -> ChosenEngine:
    """The engine for ``package``, after it has reproduced the package's golden outputs.

    Raises:
        PackageUnsignedError, PackageSignatureError: ``trusted_signers`` is set, and nobody whom
            it names signed the package.
        As :func:`hilum.engines.selection.choose`.
    """
    check_signature(package, settings)
    choice = choose(package, settings)
    for passed in choice.passed_over:
        # No GPU, or no plan yet, is how most machines are; anything else wants looking at.
        usual = isinstance(passed.error, EngineUnavailableError | EngineMissingError)
        fields = {"candidate": passed.candidate, **passed.error.body()}
        level = logging.INFO if usual else logging.WARNING
        log.log(level, "engine.passed_over", extra={"fields": fields})
    fields = {"engine": choice.name, "reason": choice.reason, "because": choice.because}
    log.info("engine.chosen", extra={"fields": fields})
    return choice
