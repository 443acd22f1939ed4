"""Open the engine that the settings choose, and log which it is and why."""

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
    """Open the engine for ``package`` and run the golden check.

    Raises:
        PackageUnsignedError, PackageSignatureError: ``trusted_signers`` is set, and none of these
            signers signed the package.
        HilumError: see :func:`hilum.engines.selection.choose`.
    """
    check_signature(package, settings)
    choice = choose(package, settings)
    for passed in choice.passed_over:
        # Most machines have no GPU or no plan yet. Any other reason deserves a warning.
        usual = isinstance(passed.error, EngineUnavailableError | EngineMissingError)
        fields = {"candidate": passed.candidate, **passed.error.body()}
        level = logging.INFO if usual else logging.WARNING
        log.log(level, "engine.passed_over", extra={"fields": fields})
    fields = {"engine": choice.name, "reason": choice.reason, "because": choice.because}
    log.info("engine.chosen", extra={"fields": fields})
    return choice
