"""A client of the gateway for the demonstration, which uses only the standard library."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any, cast

from hilum.embedded.process import ServiceFailedError


class Client:
    """Sends requests to the gateway at ``url`` with an API key."""

    def __init__(self, url: str, secret: str) -> None:
        self._url = url
        self._headers = {"Authorization": f"Bearer {secret}"}

    def get(self, path: str) -> dict[str, Any]:
        """Get a JSON resource."""
        return cast(dict[str, Any], json.loads(self.get_bytes(path)))

    def get_bytes(self, path: str) -> bytes:
        """Get a resource as bytes."""
        return self._send(urllib.request.Request(self._url + path, headers=self._headers))  # noqa: S310

    def post(self, path: str, body: dict[str, Any], *, idempotency_key: str) -> dict[str, Any]:
        """Create a resource. The same ``idempotency_key`` creates it only once."""
        headers = {
            **self._headers,
            "Content-Type": "application/json",
            "Idempotency-Key": idempotency_key,
        }
        data = json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data=data, headers=headers)  # noqa: S310
        return cast(dict[str, Any], json.loads(self._send(request)))

    @staticmethod
    def _send(request: urllib.request.Request) -> bytes:
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 -- loopback
                return cast(bytes, answer.read())
        except urllib.error.HTTPError as error:
            problem = error.read().decode(errors="replace")
            raise ServiceFailedError(
                f"The gateway answered {error.code}: {problem}",
                next_step="Read gateway.log in the folder of logs.",
            ) from None
        except urllib.error.URLError as error:
            raise ServiceFailedError(
                f"The gateway did not answer ({error.reason}).",
                next_step="Read gateway.log in the folder of logs.",
            ) from None
