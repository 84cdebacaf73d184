"""Members as processes; they are the plugin's."""

from __future__ import annotations

from pytest_trouped.member import CLASH as CLASH
from pytest_trouped.member import Member as Member
from pytest_trouped.member import MemberError as MemberError
from pytest_trouped.member import alive as alive
from pytest_trouped.member import distro_binary as distro_binary
from pytest_trouped.member import free_port as free_port
from pytest_trouped.member import process_tree as process_tree
from pytest_trouped.member import signal_all as signal_all
