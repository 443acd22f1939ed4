"""The manifests of the models that the database knows."""

from __future__ import annotations

from hilum.db.models import RegisteredModel
from hilum.packages.manifest import Manifest

# Each is validated once in a process: it never changes under its digests, and validating it takes
# longer than everything else about showing a result.
_validated: dict[tuple[str, str], Manifest] = {}


def manifest_of(model: RegisteredModel) -> Manifest:
    """The manifest of a registered model."""
    key = (model.digest, model.preprocess_digest)
    if key not in _validated:
        _validated[key] = Manifest.model_validate(model.manifest)
    return _validated[key]
