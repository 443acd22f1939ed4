"""Run the services that hilum needs on free loopback ports, for `make run` and the tests."""
