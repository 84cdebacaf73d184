"""Options and fixtures of all tests."""

from __future__ import annotations

import pytest
from hypothesis import settings

# The same examples in every run, and no complaint about a slow machine.
settings.register_profile("trouped", deadline=None, derandomize=True, database=None)
settings.load_profile("trouped")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rewrite", action="store_true", help="regenerate golden outputs")


@pytest.fixture
def rewrite(request: pytest.FixtureRequest) -> bool:
    """Whether golden outputs are to be regenerated."""
    return bool(request.config.getoption("--rewrite"))
