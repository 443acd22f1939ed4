"""The chart, rendered once a scenario for all tests of a process."""

from __future__ import annotations

from functools import cache

import pytest
from support import charts
from support.charts import Manifest


@cache
def _rendered(scenario: str) -> list[Manifest]:
    return charts.render(charts.values(scenario))


@pytest.fixture(params=charts.SCENARIOS)
def manifests(request: pytest.FixtureRequest) -> list[Manifest]:
    """The manifests of each scenario. Not to be changed."""
    return _rendered(request.param)


@pytest.fixture
def keda_pools() -> list[Manifest]:
    """The scenario with the most in it."""
    return _rendered("keda-pools")
