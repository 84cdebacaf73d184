"""The supervision tree of a real member, as data."""

from __future__ import annotations

import importlib
from dataclasses import replace

from actors.messages import InstallSnapshot, PeerReceived
from actors.wire import codec
from supervisor.tree import children


def test_every_child_has_its_own_name_exit_code_and_reason() -> None:
    specs = children(3)
    kinds = {spec.module: spec.exit_code for spec in specs}

    assert len({spec.name for spec in specs}) == len(specs) == 9
    assert len(set(kinds.values())) == len(kinds) == 7
    assert all(spec.reason for spec in specs)


def test_gateways_start_last_and_drain_first() -> None:
    specs = children(2)

    assert [spec.name for spec in specs] == [
        "transport",
        "applier",
        "raft-node",
        "lessor",
        "compactor",
        "snapshotter",
        "gateway-0",
        "gateway-1",
    ]
    assert [spec.name for spec in specs if spec.drains_first] == ["gateway-0", "gateway-1"]
    clients = [spec.name for spec in specs if "client" in spec.listens]
    assert clients == ["gateway-0", "gateway-1"]
    assert [spec.name for spec in specs if "peer" in spec.listens] == ["transport"]


def test_a_standby_is_one_more_gateway_and_says_why_it_is_there() -> None:
    *_, gateway, standby = children(1, standbys=1)

    assert [gateway.name, standby.name] == ["gateway-0", "gateway-1"]
    assert replace(standby, name=gateway.name, reason=gateway.reason) == gateway
    assert gateway.reason != standby.reason


def test_the_transport_outlives_the_raft_node_that_hands_leadership_over() -> None:
    assert [spec.name for spec in children(2) if spec.stops_last] == ["transport"]


def test_only_the_writers_keep_the_lock_of_the_data_directory() -> None:
    assert [spec.name for spec in children(1) if spec.keeps_lock] == ["applier", "raft-node"]


def test_the_out_of_memory_killer_takes_gateways_before_those_who_hold_the_data() -> None:
    scores = {spec.name: spec.oom_score_adj for spec in children(1)}

    assert scores["gateway-0"] > scores["snapshotter"] > scores["lessor"] > scores["applier"]
    assert scores["applier"] == scores["raft-node"] == 0


def test_every_module_has_a_main() -> None:
    for spec in children(1):
        assert callable(importlib.import_module(spec.module).main)


def test_a_whole_stop_fits_into_its_time() -> None:
    for spec in children(1):
        assert spec.shutdown <= (0.9 if spec.drains_first else 0.4)


def test_what_waits_for_a_disk_has_the_time_for_it() -> None:
    specs = {spec.name: spec.allowances for spec in children(1)}

    assert specs["applier"][codec.tags[InstallSnapshot]] >= 300
    assert specs["snapshotter"][codec.tags[PeerReceived]] >= 120
