"""Films of one's own, ready for a model, without a store or decode processes."""

from __future__ import annotations

from typing import Any

from hilum.packages.load import Package
from hilum.pipeline.admit import admit
from hilum.pipeline.examine import examine
from hilum.pipeline.stages import ExamineOptions, Ready
from hilum.settings import Limits


def ready(package: Package, data: bytes, **fields: Any) -> Ready:
    """The object ``data``, examined and admitted; ``fields`` are those of the options."""
    options = ExamineOptions.of(package.manifest, Limits(), **fields)
    return admit(examine(data, options), options.policy)
