"""HTTP/1.1 without sockets."""

from __future__ import annotations

import pytest

from api.grpc import Limits
from api.http1 import Http1Connection, HttpRoutes, Request, Response, method_not_allowed
from tests.api.wire import Clock


class Site:
    """A connection to routes that answer at once, later, by prefix, and with what was posted."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.clock = Clock()
        self.waiting: list[Request] = []
        self.routes = routes = HttpRoutes()
        routes.add("/health", lambda _: Response(200, b"ok", "application/json"))
        routes.add("/bye", lambda _: Response(200, b"bye", closes=True))
        routes.add("/later", self.waiting.append)
        routes.add("/echo", lambda request: Response(200, request.body), "POST")
        routes.add("/livez/", lambda request: Response(200, request.path.encode()))
        routes.add("/livez/deep/", lambda _: Response(200, b"deep"))
        self.connection = Http1Connection(
            routes, limits or Limits(), self.clock, peer="client:1", date=lambda: "today"
        )

    def send(self, data: bytes) -> bytes:
        self.connection.receive(data)
        return self.connection.data_to_send()

    def rest(self) -> bytes:
        """Take what comes in the turns of the loop that follow."""
        answers = b""
        while self.connection.dirty:
            answers += self.connection.data_to_send()
        return answers

    def get(self, target: str, *headers: str, method: str = "GET") -> bytes:
        lines = [f"{method} {target} HTTP/1.1", "Host: x", *headers, "", ""]
        return self.send("\r\n".join(lines).encode())


def body_of(answer: bytes) -> bytes:
    return answer.partition(b"\r\n\r\n")[2]


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def test_a_get_is_answered_and_the_connection_kept() -> None:
    site = Site()

    answer = site.get("/health")

    assert answer == (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nDate: today\r\n"
        b"Content-Length: 2\r\n\r\nok"
    )
    assert not site.connection.closed
    assert site.get("/health") == answer


def test_an_answer_that_closes_ends_the_connection() -> None:
    site = Site()

    answer = site.get("/bye")

    assert b"\r\nConnection: close\r\n" in answer
    assert body_of(answer) == b"bye"
    assert site.connection.closed


def test_a_head_gets_the_head_alone() -> None:
    answer = Site().get("/health", method="HEAD")

    assert b"Content-Length: 2\r\n" in answer
    assert body_of(answer) == b""


def test_unknown_paths_and_verbs_are_refused() -> None:
    site = Site()

    missing = site.get("/v3/kv/put", "Content-Length: 0", method="POST")
    assert status_of(missing) == 404
    assert body_of(missing) == b"404 page not found\n"
    wrong = site.get("/health", "Content-Length: 0", method="POST")
    assert status_of(wrong) == 405
    assert b"Allow: GET, HEAD\r\n" in wrong
    assert body_of(wrong) == b"Method Not Allowed\n"
    assert method_not_allowed("GET").status == 405


def test_the_longest_prefix_wins() -> None:
    site = Site()

    assert body_of(site.get("/livez/check?verbose")) == b"/livez/check"
    assert body_of(site.get("/livez/deep/x")) == b"deep"
    assert status_of(site.get("/livez")) == 404


def test_a_request_tells_its_query_headers_and_peer() -> None:
    site = Site()
    site.get("/later?exclude=NOSPACE&exclude=CORRUPT&verbose&serializable=true", "X-Y: 1", "x-y: 2")

    request = site.waiting[0]
    assert request.query == {
        "exclude": ["NOSPACE", "CORRUPT"],
        "verbose": [""],
        "serializable": ["true"],
    }
    assert request.headers["x-y"] == "1, 2"
    assert request.peer == "client:1"


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_a_body_may_come_in_parts_and_chunks(size: int) -> None:
    site = Site()
    chunked = (
        b"POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    )
    plain = b"POST /echo HTTP/1.1\r\nContent-Length: 5\r\n\r\nabcde"
    answers = b""

    for offset in range(0, len(chunked + plain), size):
        answers += site.send((chunked + plain)[offset : offset + size])

    assert answers.count(b"HTTP/1.1 200 OK") == 2
    assert answers.count(b"\r\n\r\nabcde") == 2


def test_pipelined_requests_are_answered_in_order() -> None:
    site = Site()
    answers = site.send(b"GET /later HTTP/1.1\r\n\r\nGET /health HTTP/1.1\r\n\r\n")
    assert answers == b""

    site.waiting[0].reply(Response(200, b"first"))
    answers = site.connection.data_to_send()

    assert answers.index(b"first") < answers.index(b"ok")


def test_a_thousand_pipelined_requests_are_no_recursion() -> None:
    site = Site()

    first = site.send(b"GET /health HTTP/1.1\r\n\r\n" * 2000)

    assert first.count(b"200 OK") == 2
    assert (first + site.rest()).count(b"200 OK") == 2000


def test_a_request_is_not_handed_on_while_another_is_answered() -> None:
    """Who answers may be in the middle of a view; there is one at a time."""
    site = Site()
    site.send(b"GET /later HTTP/1.1\r\n\r\n" * 2)

    site.waiting[0].reply(Response(200, b"first"))
    then = len(site.waiting)
    site.rest()

    assert (then, len(site.waiting)) == (1, 2)


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("http://h:1/livez/a", "/livez/a"),
        ("https://h/livez/a?x=/y", "/livez/a"),
        ("/live%7A/a%20b", "/livez/a b"),
        ("/livez/http://h", "/livez/http://h"),
    ],
)
def test_absolute_and_escaped_targets_are_understood(target: str, path: str) -> None:
    assert body_of(Site().get(target)) == path.encode()


def test_an_absolute_target_without_a_path_is_the_root() -> None:
    assert status_of(Site().get("http://h")) == 404


def test_what_follows_a_request_that_ends_the_connection_is_passed_over() -> None:
    site = Site()

    head = b"GET /health HTTP/1.1\r\nConnection: close\r\n\r\n"
    answer = site.send(head + b"GET /bye HTTP/1.1\r\n\r\n")

    assert (status_of(answer), body_of(answer)) == (200, b"ok")
    assert site.connection.closed


def test_a_client_that_sends_no_more_is_answered() -> None:
    site = Site()
    idle = Site().connection.ended()
    site.send(b"GET /later HTTP/1.1\r\n\r\n")

    waits = site.connection.ended()
    site.waiting[0].reply(Response(200, b"late"))
    answer = site.connection.data_to_send()

    assert (idle, waits) == (False, True)
    assert body_of(answer) == b"late"
    assert site.connection.closed


def test_a_stream_ends_with_its_client() -> None:
    site = Site()
    site.send(b"GET /later HTTP/1.1\r\n\r\n")
    site.waiting[0].begin(Response())
    site.connection.data_to_send()

    assert not site.connection.ended()


@pytest.mark.parametrize(
    ("host", "status"),
    [("good.example:2379", 200), ("good.example", 200), ("[::1]:2379", 200), ("evil", 421)],
)
def test_only_names_that_are_allowed_are_answered(host: str, status: int) -> None:
    site = Site()
    site.routes.hosts = frozenset(("good.example", "::1"))

    answer = site.send(f"GET /health HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())

    assert status_of(answer) == status
    assert (b'--host-whitelist "evil"' in answer) == (status == 421)


@pytest.mark.parametrize(
    ("origins", "origin", "allowed"),
    [
        (("*",), "http://a", "*"),
        ((), "http://a", "*"),
        (("http://a", "http://b"), "http://b", "http://b"),
        (("http://a",), "http://c", ""),
        (("http://a",), "", ""),
        (("http://a",), "*", ""),
    ],
)
def test_browsers_are_told_whose_pages_may_call(
    origins: tuple[str, ...], origin: str, allowed: str
) -> None:
    site = Site()
    site.routes.origins = frozenset(origins)

    answer = site.send(f"GET /health HTTP/1.1\r\nHost: h\r\nOrigin: {origin}\r\n\r\n".encode())

    assert status_of(answer) == 200
    found = [line for line in answer.split(b"\r\n") if b"-Allow-Origin" in line]
    assert found == ([b"Access-Control-Allow-Origin: " + allowed.encode()] if allowed else [])


def test_a_browser_may_ask_about_any_path_but_not_see_the_actors() -> None:
    site = Site()
    assert status_of(site.send(b"OPTIONS /health HTTP/1.1\r\nHost: h\r\n\r\n")) == 405
    site.routes.origins = frozenset("*")

    for path, told in ((b"/nothing", True), (b"/debug/actors/events", False)):
        answer = site.send(b"OPTIONS " + path + b" HTTP/1.1\r\nHost: h\r\n\r\n")
        assert status_of(answer) == 200
        assert (b"Access-Control-" in answer) == told


def test_reading_stops_while_enough_requests_wait() -> None:
    site = Site()
    site.send(b"GET /later HTTP/1.1\r\n\r\n" * 20)
    waits = site.connection.reading

    answers = b""
    for _ in range(20):
        site.waiting[-1].reply(Response())
        answers += site.rest()

    assert (waits, site.connection.reading) == (False, True)
    assert answers.count(b"200 OK") == 20


def test_an_answer_may_be_streamed_in_chunks() -> None:
    site = Site()
    site.get("/later")
    request = site.waiting[0]

    request.begin(Response(200, b"", "application/json"))
    request.write(b"one")
    request.write(b"")
    assert request.writable
    first = site.connection.data_to_send()
    request.write(b"x" * 17)
    request.end()
    request.end()
    rest = site.connection.data_to_send()

    assert b"Transfer-Encoding: chunked\r\n" in first
    assert body_of(first) == b"3\r\none\r\n"
    assert rest == b"11\r\n" + b"x" * 17 + b"\r\n0\r\n\r\n"
    assert body_of(site.get("/health")) == b"ok"


@pytest.mark.parametrize(
    "head", [b"GET /health HTTP/1.0\r\n\r\n", b"GET /health HTTP/1.1\r\nConnection: close\r\n\r\n"]
)
def test_the_connection_ends_when_the_client_wants_it(head: bytes) -> None:
    site = Site()

    answer = site.send(head)

    assert status_of(answer) == 200
    assert b"Connection: close\r\n" in answer
    assert site.connection.closed


def test_an_upgrade_to_h2c_is_ignored() -> None:
    site = Site()
    upgrade = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk")

    assert body_of(site.get("/health", *upgrade)) == b"ok"
    assert body_of(site.get("/health", *upgrade)) == b"ok"
    posted = site.send(
        b"POST /echo HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\nhi"
    )
    assert body_of(posted) == b"hi"
    last = site.send(
        b"POST /echo HTTP/1.1\r\nConnection: close, Upgrade\r\nUpgrade: h2c\r\n"
        b"Content-Length: 2\r\n\r\nhi"
    )
    assert body_of(last) == b"hi"
    assert site.connection.closed


def test_a_tunnel_is_not_offered() -> None:
    """Whatever follows is the tunnel's; to the parser each try to read it is an upgrade again."""
    site = Site()

    answer = site.send(
        b"CONNECT a:1 HTTP/1.1\r\nContent-Length: 1\r\n\r\nxGET /health HTTP/1.1\r\n"
    )

    assert status_of(answer) == 404
    assert answer.count(b"HTTP/1.1") == 1
    assert site.connection.closed


def test_a_client_that_waits_for_100_continue_gets_it() -> None:
    site = Site()

    first = site.send(b"POST /echo HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
    assert first == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert body_of(site.send(b"hi")) == b"hi"


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"NONSENSE\r\n\r\n",
        b"GET / HTTP/9.1\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET /health HTTP/1.1\r\nbad header\r\n\r\n",
    ],
)
def test_what_is_no_http_gets_400_and_the_end(data: bytes) -> None:
    site = Site()

    answer = site.send(data)

    assert status_of(answer) == 400
    assert b"Connection: close" in answer
    assert site.connection.closed
    assert site.send(b"GET /health HTTP/1.1\r\n\r\n") == b""


@pytest.mark.parametrize(
    "line",
    [
        b"GET /" + b"x" * 3000 + b" HTTP/1.1\r\n",
        b"X: " + b"y" * 3000 + b"\r\nA: b\r\n",
        b"X: 1\r\n" * 600,
    ],
)
@pytest.mark.parametrize("size", [100, 10_000])
def test_a_head_over_the_limit_is_refused(line: bytes, size: int) -> None:
    site = Site(Limits(http1_header_bytes_max=1000))
    data = line if line.startswith(b"GET") else b"GET /health HTTP/1.1\r\n" + line
    answer = b""

    for offset in range(0, len(data), size):
        answer += site.send(data[offset : offset + size])

    assert status_of(answer) == 431
    assert site.connection.closed


def test_a_line_that_never_ends_is_refused() -> None:
    site = Site(Limits(http1_header_bytes_max=1000))
    site.send(b"GET /health HTTP/1.1\r\nX: ")

    answers = [site.send(b"y" * 100) for _ in range(20)]

    assert status_of(b"".join(answers)) == 431


def test_many_small_requests_are_not_one_large_head() -> None:
    site = Site(Limits(http1_header_bytes_max=1000))
    data = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n" * 1000
    answers = b""

    for offset in range(0, len(data), 1777):
        answers += site.send(data[offset : offset + 1777]) + site.rest()

    assert answers.count(b"200 OK") == 1000


@pytest.mark.parametrize(
    "data",
    [
        b"Content-Length: 1001\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n" + (b"64\r\n" + b"x" * 100 + b"\r\n") * 11,
    ],
)
def test_a_body_over_the_limit_is_refused(data: bytes) -> None:
    site = Site(Limits(http1_body_bytes_max=1000))

    answer = site.send(b"POST /echo HTTP/1.1\r\n" + data)

    assert status_of(answer) == 413
    assert site.connection.closed


def test_an_idle_connection_is_closed_and_a_busy_one_is_not() -> None:
    site = Site(Limits(http1_idle_timeout=300))
    site.get("/health")
    assert site.connection.wake_at == site.clock.now + 300
    site.get("/later")
    assert site.connection.wake_at == float("inf")

    site.waiting[0].reply(Response())
    site.connection.data_to_send()
    site.clock.now += 300
    site.connection.wake(site.clock.now)

    assert site.connection.closed
    assert site.connection.data_to_send() == b""


def test_half_a_request_is_not_waited_for_for_ever() -> None:
    site = Site(Limits(http1_idle_timeout=300))
    site.send(b"GET /health HTTP/1.1\r\n")
    due = site.connection.wake_at

    site.clock.now += 299
    site.send(b"X: y\r\n")
    assert site.connection.wake_at == due
    site.clock.now += 1
    site.connection.wake(site.clock.now)

    assert status_of(site.connection.data_to_send()) == 408
    assert site.connection.closed


def test_a_drain_answers_what_is_open_and_ends() -> None:
    site = Site()
    site.get("/later")

    site.connection.drain()
    assert not site.connection.closed
    site.waiting[0].reply(Response(200, b"done"))
    answer = site.connection.data_to_send()

    assert body_of(answer) == b"done"
    assert b"Connection: close" in answer
    assert site.connection.closed


def test_a_drain_tells_an_answer_without_an_end_to_end() -> None:
    site = Site()
    site.get("/later")
    stream = site.waiting[0]
    stream.begin(Response(200, b"first"))
    stream.on_drain = stream.end

    site.connection.drain()

    assert site.connection.data_to_send().endswith(b"5\r\nfirst\r\n0\r\n\r\n")
    assert site.connection.closed
    assert stream.answered


def test_a_lost_client_is_told_once_and_answers_are_ignored() -> None:
    site = Site()
    closed: list[str] = []
    site.get("/later")
    request = site.waiting[0]
    request.on_close = lambda: closed.append("closed")

    site.connection.lost()
    request.reply(Response())
    request.begin(Response())
    request.write(b"x")

    assert closed == ["closed"]
    assert site.connection.data_to_send() == b""
    assert site.connection.closed


def test_a_request_is_answered_once() -> None:
    site = Site()
    site.get("/later")

    site.waiting[0].reply(Response(200, b"a"))
    site.waiting[0].reply(Response(200, b"b"))

    assert body_of(site.connection.data_to_send()) == b"a"


def test_errors_of_a_route_are_not_swallowed() -> None:
    def broken(_: Request) -> Response:
        raise ZeroDivisionError

    routes = HttpRoutes()
    routes.add("/x", broken)
    connection = Http1Connection(routes, Limits(), Clock())

    with pytest.raises(ZeroDivisionError):
        connection.receive(b"GET /x HTTP/1.1\r\n\r\n")


def test_a_content_length_may_have_any_number_of_zeros_before_it() -> None:
    site = Site()
    zeros = b"0" * 5000

    empty = site.send(b"GET /health HTTP/1.1\r\nContent-Length: " + zeros + b"\r\n\r\n")
    two = site.send(b"POST /echo HTTP/1.1\r\nContent-Length: " + zeros + b"2\r\n\r\nhi")
    large = site.send(b"POST /echo HTTP/1.1\r\nContent-Length: " + zeros + b"9" * 19 + b"\r\n\r\n")

    assert body_of(empty) == b"ok"
    assert body_of(two) == b"hi"
    assert status_of(large) == 413
