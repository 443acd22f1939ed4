"""The HTTP gateway. Needs the `serve` extra; loads no engine."""
