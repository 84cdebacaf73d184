"""Faults over HTTP and on the page: only where they are enabled, only for the owner."""

from __future__ import annotations

import json
import os
import stat
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from actors.debug_faults import (
    FaultOrderError,
    FaultRefusedError,
    check_owner,
    parse_order,
)
from control import fault
from control.__main__ import run
from control.observe import MemberView
from tests.member import Member
from tests.observe.chromium import Browser, chromium
from tests.supervisor.toys import eventually

browser_needed = pytest.mark.skipif(chromium() is None, reason="no Chromium on this machine")


@pytest.fixture(scope="module")
def member(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Member]:
    with Member(tmp_path_factory.mktemp("faults"), flags=["--enable-faults"]) as made:
        yield made


@pytest.fixture
def view(member: Member) -> Iterator[MemberView]:
    yield member.view
    fault.inject(member.view, "heal", "")


def post(member: Member, order: Any, key: str | None) -> tuple[int, dict[str, Any]]:
    request = urllib.request.Request(
        f"{member.url}/debug/actors/faults", method="POST", data=json.dumps(order).encode()
    )
    if key is not None:
        request.add_header("Authorization", f"Bearer {key}")
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.mark.e2e
def test_the_owner_suspends_an_actor(member: Member, view: MemberView) -> None:
    order = {"verb": "suspend", "target": "compactor", "for": 30}

    assert post(member, order, fault.key(view.run_dir)) == (200, {"for": 30})
    eventually(lambda: view.sample("compactor").doing == "local message", "it is suspended")
    assert post(member, order | {"verb": "resume"}, fault.key(view.run_dir))[0] == 200
    eventually(lambda: not view.sample("compactor").doing, "it goes on")


@pytest.mark.e2e
@pytest.mark.parametrize("key", [None, "", "wrong"])
def test_nobody_else_may(member: Member, view: MemberView, key: str | None) -> None:
    pid = member.actors()["compactor"]

    code, answer = post(member, {"verb": "kill", "target": "compactor"}, key)

    assert code == 403
    assert "only the owner of the run directory" in answer["error"]
    assert member.actors()["compactor"] == pid


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("order", "code", "words"),
    [
        ({"verb": "boom"}, 400, "verb must be one of kill"),
        ({"verb": "kill", "target": "nobody"}, 503, "no actor 'nobody'"),
        ({"verb": "slow", "target": "lessor", "p99_ms": 2000}, 503, "at most 1000"),
    ],
)
def test_what_makes_no_sense_is_refused_in_words(
    member: Member, view: MemberView, order: Any, code: int, words: str
) -> None:
    found, answer = post(member, order, fault.key(view.run_dir))

    assert (found, words in answer["error"]) == (code, True), answer


@pytest.mark.e2e
def test_the_key_is_the_owners_and_is_told_by_troupectl_alone(
    member: Member, view: MemberView, capsys: pytest.CaptureFixture[str]
) -> None:
    key = fault.key(view.run_dir)
    with urllib.request.urlopen(f"{member.url}/debug/actors/faults", timeout=10) as answer:
        offered = answer.read().decode()

    assert len(key) >= 32
    assert stat.S_IMODE((view.run_dir / fault.KEY_FILE).stat().st_mode) == 0o600
    assert json.loads(offered)["enabled"]
    assert key not in offered
    assert key not in Path(member.log_path).read_text()
    assert run(["page", f"--run-dir={view.run_dir}"]) == 0
    assert capsys.readouterr().out == f"{member.url}/debug/actors#key={key}\n"


def press_until(browser: Browser, key: str, expression: str) -> None:
    for _ in range(20):
        if browser.evaluate(expression):
            return
        browser.press(key)
    raise AssertionError(f"not by pressing {key}: {expression}")


@pytest.mark.e2e
@browser_needed
def test_an_actor_is_killed_from_the_page_by_keyboard(member: Member, view: MemberView) -> None:
    pid = member.actors()["compactor"]
    with Browser() as browser:
        browser.open(f"{member.url}/debug/actors#key={fault.key(view.run_dir)}")
        browser.until("document.querySelectorAll('#rows tr').length >= 7")
        press_until(browser, "j", "chosen === 'compactor'")
        browser.press("Enter")
        browser.until("!document.getElementById('faults').hidden")
        browser.press("f")
        press_until(browser, "Tab", "document.activeElement.dataset.verb === 'kill'")
        browser.press("Enter")
        browser.until(
            "document.getElementById('told').textContent.startsWith('kill compactor: done')"
        )

        assert browser.evaluate("location.hash") == ""
        assert browser.problems == []
    eventually(lambda: member.actors().get("compactor", pid) != pid, "another one works")


@pytest.mark.e2e
def test_without_the_flag_there_is_no_key_and_every_order_is_refused(tmp_path: Path) -> None:
    with Member(tmp_path) as plain:
        code, answer = post(plain, {"verb": "kill", "target": "applier"}, "")
        with urllib.request.urlopen(f"{plain.url}/debug/actors/faults", timeout=10) as offered:
            enabled = json.load(offered)["enabled"]
        leftover = (plain.view.run_dir / fault.KEY_FILE).exists()

    assert code == 403
    assert answer == {"error": "start the member with --enable-faults"}
    assert not enabled
    assert not leftover


class Asked:
    """A request on paper."""

    def __init__(self, **headers: str) -> None:
        self.headers = headers


def test_only_the_whole_key_as_a_bearer_token_will_do(tmp_path: Path) -> None:
    (tmp_path / fault.KEY_FILE).write_text("abc")

    check_owner(tmp_path, Asked(authorization="Bearer abc"))  # type: ignore[arg-type]
    for given in ("abc", "Basic abc", "Bearer ab", "Bearer abcd", "Bearer ä", ""):
        with pytest.raises(FaultRefusedError):
            check_owner(tmp_path, Asked(authorization=given))  # type: ignore[arg-type]

    os.truncate(tmp_path / fault.KEY_FILE, 0)
    with pytest.raises(FaultRefusedError, match="--enable-faults"):
        check_owner(tmp_path, Asked(authorization="Bearer "))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"verb": []}',
        b'{"verb": "kill", "target": 1}',
        b'{"verb": "slow", "target": "a", "ms": "1"}',
        b'{"verb": "slow", "target": "a", "ms": true}',
        b'{"verb": "drop", "target": "a:b", "type": 3}',
        b'{"verb": "kill", "target": "a", "verbs": 1}',
    ],
)
def test_what_is_no_order_is_no_order(body: bytes) -> None:
    with pytest.raises(FaultOrderError):
        parse_order(body)


def test_an_order_says_what_troupectl_fault_can_say() -> None:
    body = b'{"verb": "drop", "target": "a:b", "for": 2, "type": "Apply", "ratio": 0.5}'

    assert parse_order(body) == ("drop", "a:b", {"for": 2, "type": "Apply", "ratio": 0.5})
