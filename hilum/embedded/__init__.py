"""Real services on free loopback ports, for `make run` and the tests."""
