"""gRPC without sockets: an ngh2 client wired to a GrpcConnection."""

from __future__ import annotations

import gc
import tracemalloc

import pytest

from api.grpc import Call, GrpcConnection, Limits, Method
from api.grpc_call import status_trailers
from kv.errors import EMPTY_KEY, NO_SPACE, Code, EtcdError
from tests.api.wire import ECHO, LATER, LIST, STREAM, Clock, Recorder, Wire, frame


def test_a_unary_call_is_answered_with_message_and_status() -> None:
    wire = Wire()

    answer = wire.call(ECHO, b"hello")

    assert answer.headers == {b":status": b"200", b"content-type": b"application/grpc"}
    assert answer.messages == [b"hello"]
    assert answer.trailers == {b"grpc-status": b"0", b"grpc-message": b""}
    assert answer.closed
    assert answer.reset is None


def test_a_call_may_be_answered_later() -> None:
    wire = Wire()
    answer = wire.call(LATER, b"a")
    assert not answer.headers

    call, message = wire.service.waiting[0]
    call.reply(message * 3)
    wire.exchange()

    assert answer.messages == [b"aaa"]
    assert answer.code == 0


def test_an_answer_in_pieces_is_one_message() -> None:
    wire = Wire()
    answer = wire.call(LATER, b"")

    wire.service.waiting[0][0].reply([b"x" * 70_000, b"", b"y" * 3])
    wire.exchange()

    assert answer.messages == [b"x" * 70_000 + b"yyy"]


def test_answers_come_in_the_order_the_server_gives_them() -> None:
    wire = Wire()
    first = wire.call(LATER, b"1")
    second = wire.call(LATER, b"2")

    call, message = wire.service.waiting[1]
    call.reply(message)
    wire.exchange()

    assert second.messages == [b"2"]
    assert not first.headers


@pytest.mark.parametrize("size", [1, 2, 4, 5, 6, 7, 100])
def test_a_message_split_over_data_frames_is_put_together(size: int) -> None:
    wire = Wire()
    message = bytes(range(256))
    data = frame(message)
    stream_id = wire.open(ECHO)

    for offset in range(0, len(data), size):
        end = offset + size >= len(data)
        wire.client.send_data(stream_id, data[offset : offset + size], end_stream=end)
        wire.exchange()

    assert wire.answers[stream_id].messages == [message]


def test_the_end_of_the_stream_may_come_in_an_empty_frame() -> None:
    wire = Wire()
    stream_id = wire.open(ECHO)
    wire.send(stream_id, b"m")
    wire.exchange()
    assert not wire.answers[stream_id].headers

    wire.client.end_stream(stream_id)
    wire.exchange()

    assert wire.answers[stream_id].messages == [b"m"]


def test_the_end_of_the_stream_may_come_as_trailers() -> None:
    wire = Wire()
    stream_id = wire.open(ECHO)
    wire.send(stream_id, b"m")
    wire.client.send_trailers(stream_id, ((b"x", b"y"),))
    wire.exchange()

    assert wire.answers[stream_id].messages == [b"m"]


def test_several_messages_in_one_data_frame_reach_the_stream_one_by_one() -> None:
    wire = Wire()
    stream_id = wire.open(STREAM)
    wire.send(stream_id, b"a", b"", b"ccc")
    wire.exchange()

    assert wire.service.streams[0].told == [b"a", b"", b"ccc"]
    assert wire.answers[stream_id].messages == [b"a", b"", b"ccc"]
    assert not wire.answers[stream_id].trailers

    wire.client.end_stream(stream_id)
    wire.exchange()
    assert wire.service.streams[0].told[-1] == "half-close"
    assert wire.answers[stream_id].code == 0
    assert wire.server.busy == 0


def test_a_server_stream_sends_any_number_of_messages() -> None:
    wire = Wire()

    assert wire.call(LIST, b"abc").messages == [b"a", b"b", b"c"]
    nothing = wire.call(LIST, b"")
    assert nothing.messages == []
    assert nothing.code == 0


def test_an_error_is_sent_as_trailers_only() -> None:
    wire = Wire()
    answer = wire.call(LATER, b"")

    wire.service.waiting[0][0].fail(NO_SPACE)
    wire.exchange()

    assert answer.headers == {
        b":status": b"200",
        b"content-type": b"application/grpc",
        b"grpc-status": b"8",
        b"grpc-message": b"etcdserver: mvcc: database space exceeded",
    }
    assert not answer.trailers
    assert answer.closed


def test_an_error_after_messages_is_sent_as_trailers() -> None:
    wire = Wire()
    stream_id = wire.open(STREAM)
    wire.send(stream_id, b"a")
    wire.exchange()

    wire.service.streams[0].call.finish(Code.OUT_OF_RANGE, "gone")
    wire.exchange()

    answer = wire.answers[stream_id]
    assert answer.messages == [b"a"]
    assert (answer.code, answer.text) == (11, "gone")
    assert answer.reset == 0  # the request was not at its end: no error, but no more of it
    assert answer.closed


def test_an_etcd_error_raised_by_a_handler_answers_the_call() -> None:
    def refuse(call: Call, message: bytes) -> None:
        raise EtcdError(EMPTY_KEY)

    wire = Wire({ECHO: Method.unary(refuse)})

    answer = wire.call(ECHO, b"")

    assert (answer.code, answer.text) == (3, "etcdserver: key is not provided")


def test_other_errors_of_a_handler_are_not_swallowed() -> None:
    def broken(call: Call, message: bytes) -> None:
        raise ZeroDivisionError

    wire = Wire({ECHO: Method.unary(broken)})

    with pytest.raises(ZeroDivisionError):
        wire.call(ECHO, b"")


def test_a_status_text_is_percent_encoded() -> None:
    wire = Wire()
    answer = wire.call(LATER, b"")

    wire.service.waiting[0][0].finish(2, "50% \nü")
    wire.exchange()

    assert answer.headers[b"grpc-message"] == b"50%25 %0A%C3%BC"


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (b"/no.Service/Do", "unknown service no.Service"),
        (b"/test.Echo/Nope", "unknown method Nope for service test.Echo"),
        (b"/Echo", 'malformed method name: "/Echo"'),
    ],
)
def test_an_unknown_path_is_unimplemented_as_grpc_go_says_it(path: bytes, text: str) -> None:
    answer = Wire().call(path, b"")

    assert (answer.code, answer.text) == (12, text)
    assert answer.headers[b":status"] == b"200"


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        (b"application/grpc+proto", b"200"),
        (b"application/grpc;v=1", b"200"),
        (b"application/json", b"415"),
        (b"application/grpcweb", b"415"),
    ],
)
def test_only_grpc_content_types_are_taken(content_type: bytes, status: bytes) -> None:
    wire = Wire()
    stream_id = wire.open(ECHO, content_type=content_type)
    wire.send(stream_id, b"x", end=True)
    wire.exchange()

    answer = wire.answers[stream_id]
    assert answer.headers[b":status"] == status
    assert answer.code == (0 if status == b"200" else 3)


def test_only_post_is_a_call() -> None:
    wire = Wire()
    stream_id = wire.open(ECHO, method=b"GET")
    wire.exchange()

    assert wire.answers[stream_id].headers[b":status"] == b"405"


def test_an_open_call_keeps_no_headers_but_the_few_that_are_used() -> None:
    wire = Wire()
    extra = [(b"x-%d" % number, b"a" * 3000) for number in range(20)]
    tracemalloc.start()

    for _ in range(50):
        wire.call(LATER, b"", (b"grpc-encoding", b"e" * 3000), *extra)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert len(wire.server.calls) == 50
    assert taken < 500_000
    call = wire.service.waiting[0][0]
    assert call.encoding == b"e" * 64
    assert call.peer == "client:1"
    assert call.path == LATER


def test_long_texts_of_statuses_are_not_kept() -> None:
    assert status_trailers(5, "short") is status_trailers(5, "short")
    assert status_trailers(5, "x" * 2000) is not status_trailers(5, "x" * 2000)


def test_a_deadline_ends_a_call_once_the_clock_has_passed_it() -> None:
    wire = Wire()
    closed: list[str] = []
    answer = wire.call(LATER, b"", (b"grpc-timeout", b"200m"))
    call = wire.service.waiting[0][0]
    call.on_close = lambda: closed.append("closed")
    assert call.deadline == wire.clock.now + 0.2
    assert wire.server.wake_at == call.deadline

    wire.clock.now += 0.1
    wire.server.wake(wire.clock.now)
    wire.exchange()
    assert not answer.headers
    wire.clock.now += 0.11
    wire.server.wake(wire.clock.now)
    wire.exchange()

    assert (answer.code, answer.text) == (4, "context deadline exceeded")
    assert call.closed
    assert call.cancelled
    assert closed == ["closed"]
    call.reply(b"too late")
    wire.exchange()
    assert not answer.body
    assert wire.server.busy == 0


def test_the_earliest_of_many_deadlines_wakes_the_connection() -> None:
    wire = Wire()
    late = wire.call(LATER, b"", (b"grpc-timeout", b"5S"))
    early = wire.call(LATER, b"", (b"grpc-timeout", b"1S"))
    assert wire.server.wake_at == wire.clock.now + 1

    wire.clock.now += 1
    wire.server.wake(wire.clock.now)
    wire.exchange()

    assert early.code == 4
    assert not late.headers
    assert wire.server.wake_at == wire.clock.now + 4


def test_a_timeout_of_nothing_is_over_at_once() -> None:
    wire = Wire()

    answer = wire.call(LATER, b"", (b"grpc-timeout", b"0n"))

    assert answer.code == 4
    assert not wire.service.waiting


@pytest.mark.parametrize("timeout", [b"5", b"S", b"1x", b"-1S", b"123456789S"])
def test_a_malformed_timeout_is_refused(timeout: bytes) -> None:
    answer = Wire().call(ECHO, b"", (b"grpc-timeout", timeout))

    assert answer.code == 13
    assert answer.text == f"malformed grpc-timeout: {timeout.decode()}"


def test_a_deadline_tells_a_stream_once() -> None:
    wire = Wire()
    stream_id = wire.open(STREAM, (b"grpc-timeout", b"1S"))
    wire.exchange()

    wire.clock.now += 1
    wire.server.wake(wire.clock.now)
    wire.exchange()

    assert wire.service.streams[0].told == ["cancel"]
    assert wire.answers[stream_id].code == 4


def test_streams_that_require_a_leader_end_without_one() -> None:
    wire = Wire()
    requires = (b"hasleader", b"true")
    bidi, other = wire.open(STREAM, requires), wire.open(STREAM)
    waits = wire.open(LATER, requires)
    wire.send(waits, b"", end=True)
    wire.exchange()

    wire.server.end_leaderless()
    wire.server.end_leaderless()
    wire.exchange()

    assert (wire.answers[bidi].code, wire.answers[bidi].text) == (14, "etcdserver: no leader")
    assert [stream.told for stream in wire.service.streams] == [["cancel"], []]
    assert not wire.answers[other].headers
    assert len(wire.service.waiting) == 1


def test_a_server_stream_that_requires_a_leader_is_told() -> None:
    told: list[str] = []

    def open_stream(call: Call, message: bytes) -> None:
        call.send(message)
        call.on_close = lambda: told.append("closed")

    wire = Wire({LIST: Method.server_stream(open_stream)})
    stream = wire.open(LIST, (b"hasleader", b"true"))
    wire.send(stream, b"x", end=True)
    wire.exchange()

    wire.server.end_leaderless()
    wire.exchange()

    assert told == ["closed"]
    assert wire.answers[stream].code == 14


def test_a_reset_cancels_the_call() -> None:
    wire = Wire()
    closed: list[str] = []
    stream_id = wire.open(LATER)
    wire.send(stream_id, b"x", end=True)
    wire.exchange()
    call = wire.service.waiting[0][0]
    call.on_close = lambda: closed.append("closed")

    wire.client.reset_stream(stream_id)
    wire.exchange()

    assert call.closed
    assert call.cancelled
    assert closed == ["closed"]
    assert call.method.handled[Code.CANCELED] == 1
    call.reply(b"too late")
    call.send(b"x")
    call.fail(NO_SPACE)
    wire.exchange()
    assert call.method.handled[Code.OK] == 0
    assert wire.call(ECHO, b"still here").messages == [b"still here"]


def test_a_request_reset_in_the_same_bytes_is_no_error() -> None:
    wire = Wire()
    stream_id = wire.open(ECHO)
    wire.send(stream_id, b"x", end=True)
    data = wire.client.data_to_send()
    wire.client.reset_stream(stream_id)
    wire.raw(data + wire.client.data_to_send())
    wire.exchange()

    assert wire.server.busy == 0
    assert wire.call(ECHO, b"y").messages == [b"y"]


def test_a_lost_connection_cancels_its_calls() -> None:
    wire = Wire()
    wire.call(LATER, b"")
    wire.open(STREAM)
    wire.exchange()

    wire.server.lost()

    assert wire.service.waiting[0][0].cancelled
    assert wire.service.streams[0].told == ["cancel"]
    assert wire.server.closed


def test_a_call_answered_before_its_request_is_whole_is_reset_without_error() -> None:
    wire = Wire()
    stream_id = wire.open(b"/no.Service/Do")
    wire.exchange()

    assert wire.answers[stream_id].code == 12
    assert wire.answers[stream_id].reset == 0


def test_trailers_are_not_cut_off_by_the_early_reset() -> None:
    wire = Wire(reads=False)
    stream_id = wire.open(STREAM)
    wire.exchange()
    call = wire.service.streams[0].call
    call.send(b"x" * 100_000)  # more than the client's window
    call.finish()
    wire.exchange()
    assert wire.answers[stream_id].reset is None

    wire.client.acknowledge_received_data(65_535, stream_id)
    wire.exchange()

    answer = wire.answers[stream_id]
    assert answer.messages == [b"x" * 100_000]
    assert answer.code == 0
    assert answer.reset == 0


def test_a_reader_that_stops_makes_the_call_unwritable_until_it_goes_on() -> None:
    wire = Wire(limits=Limits(stream_queue_bytes=1000), reads=False)
    stream_id = wire.open(STREAM)
    wire.exchange()
    handler = wire.service.streams[0]

    handler.call.send(b"x" * 70_000)
    wire.exchange()
    assert not handler.call.writable
    assert handler.told == []

    wire.client.acknowledge_received_data(65_535, stream_id)
    wire.exchange()
    assert handler.told == ["drain"]
    assert handler.call.writable


def test_a_client_that_reads_nothing_gets_no_more_window_for_requests() -> None:
    limits = Limits(
        connection_queue_bytes=100_000, connection_window=200_000, stream_window=100_000
    )
    wire = Wire(limits=limits, reads=False)
    for _ in range(40):
        wire.call(ECHO, b"x" * 30_000)
    accepted = wire.service.methods[ECHO].received
    assert accepted < 20

    for _ in range(200):
        for stream_id, answer in wire.answers.items():
            if answer.body:
                wire.client.acknowledge_received_data(len(answer.body), stream_id)
                answer.body = b""
        wire.exchange()

    assert wire.service.methods[ECHO].received == 40
    assert all(answer.closed for answer in wire.answers.values())


def test_methods_count_their_calls() -> None:
    wire = Wire()
    wire.call(ECHO, b"")
    wire.call(LATER, b"")
    wire.service.waiting[0][0].fail(NO_SPACE)

    echo, later = wire.service.methods[ECHO], wire.service.methods[LATER]
    assert (echo.started, echo.handled[0], echo.received, echo.sent) == (1, 1, 1, 1)
    assert (later.started, later.handled[8], later.received, later.sent) == (1, 1, 1, 0)
    assert [echo.kind.value, wire.service.methods[STREAM].kind.value] == ["unary", "bidi_stream"]


def test_on_dirty_is_called_once_until_the_bytes_are_taken() -> None:
    wire = Wire()
    marks: list[int] = []
    wire.server.on_dirty = lambda: marks.append(1)
    wire.call(LATER, b"")
    wire.call(LATER, b"")
    marks.clear()

    for call, message in wire.service.waiting:
        call.reply(message)
    assert len(marks) == 1

    wire.exchange()
    wire.open(ECHO)
    wire.exchange()
    assert len(marks) == 2


def kept() -> int:
    """Count what a connection is made of."""
    return sum(isinstance(o, Call | GrpcConnection | Recorder) for o in gc.get_objects())


def test_a_finished_call_is_not_kept_in_circles() -> None:
    gc.collect()
    gc.disable()
    try:
        before = kept()
        wire = Wire()
        stream_id = wire.open(STREAM)
        wire.send(stream_id, b"x", end=True)
        wire.exchange()
        assert kept() == before + 3

        wire.service.streams.clear()

        assert kept() == before + 1
    finally:
        gc.enable()


def test_a_lost_connection_is_not_kept_in_circles() -> None:
    gc.collect()
    gc.disable()
    try:
        before = kept()
        wire = Wire()
        wire.open(STREAM)
        wire.call(LATER, b"")
        wire.call(ECHO, b"")
        assert kept() == before + 4
        wire.server.lost()

        wire.service.streams.clear()
        wire.service.waiting.clear()
        del wire

        assert kept() == before
    finally:
        gc.enable()


def test_bytes_may_come_one_by_one() -> None:
    wire = Wire()
    stream_id = wire.open(ECHO)
    wire.send(stream_id, b"slow", end=True)
    for byte in wire.client.data_to_send():
        wire.raw(bytes([byte]))
    wire.exchange()

    assert wire.answers[stream_id].messages == [b"slow"]


def test_a_new_connection_needs_no_clock_but_the_one_given() -> None:
    clock = Clock()
    connection = GrpcConnection({}, Limits(handshake_timeout=5), clock)

    assert connection.wake_at == 1005.0
