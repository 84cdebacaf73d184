"""The client of the tests; it is the plugin's."""

from __future__ import annotations

from pytest_trouped.client import METHODS as METHODS
from pytest_trouped.client import OPTIONS as OPTIONS
from pytest_trouped.client import Answer as Answer
from pytest_trouped.client import CallError as CallError
from pytest_trouped.client import Client as Client
from pytest_trouped.client import paged as paged
