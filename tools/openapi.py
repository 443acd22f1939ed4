"""``python -m tools.openapi [FILE]``: the OpenAPI document, as it is committed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from api_gateway.app import create_app
from hilum.settings import Settings


def document() -> str:
    """The document of the default settings, as text."""
    schema = create_app(Settings.model_construct()).openapi()
    return json.dumps(schema, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(document())
    else:
        sys.stdout.write(document())
