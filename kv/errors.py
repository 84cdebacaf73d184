"""etcd's errors: one number, one gRPC code and one text each (rpctypes/error.go's contract).

Clients recognise an error by its text, so texts are verbatim. Numbers are ours: results travel
through mailboxes and the database as negative numbers, so a number is never reused and new errors
go to the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final


class Code(IntEnum):
    """gRPC status codes."""

    OK = 0
    CANCELED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


@dataclass(frozen=True, slots=True)
class Status:
    """How a refused request is answered: a gRPC code and etcd's text."""

    number: int
    code: Code
    text: str


class EtcdError(Exception):
    """A request is refused with a status; nothing has changed."""

    def __init__(self, status: Status) -> None:
        super().__init__(status.text)
        self.status = status


_TABLE: Final[dict[int, Status]] = {}


def _error(number: int, code: Code, text: str) -> Status:
    assert number not in _TABLE, number
    status = Status(number, code, text)
    _TABLE[number] = status
    return status


def by_number(number: int) -> Status:
    """Return the status of a result; KeyError means a newer member wrote it."""
    return _TABLE[number]


EMPTY_KEY: Final = _error(1, Code.INVALID_ARGUMENT, "etcdserver: key is not provided")
KEY_NOT_FOUND: Final = _error(2, Code.INVALID_ARGUMENT, "etcdserver: key not found")
VALUE_PROVIDED: Final = _error(3, Code.INVALID_ARGUMENT, "etcdserver: value is provided")
LEASE_PROVIDED: Final = _error(4, Code.INVALID_ARGUMENT, "etcdserver: lease is provided")
TOO_MANY_OPS: Final = _error(
    5,
    Code.INVALID_ARGUMENT,
    "etcdserver: too many operations in txn request",
)
DUPLICATE_KEY: Final = _error(
    6,
    Code.INVALID_ARGUMENT,
    "etcdserver: duplicate key given in txn request",
)
INVALID_CLIENT_API_VERSION: Final = _error(
    7,
    Code.INVALID_ARGUMENT,
    "etcdserver: invalid client api version",
)
INVALID_SORT_OPTION: Final = _error(8, Code.INVALID_ARGUMENT, "etcdserver: invalid sort option")
COMPACTED: Final = _error(
    9,
    Code.OUT_OF_RANGE,
    "etcdserver: mvcc: required revision has been compacted",
)
FUTURE_REV: Final = _error(
    10,
    Code.OUT_OF_RANGE,
    "etcdserver: mvcc: required revision is a future revision",
)
NO_SPACE: Final = _error(11, Code.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded")
LEASE_NOT_FOUND: Final = _error(12, Code.NOT_FOUND, "etcdserver: requested lease not found")
LEASE_EXIST: Final = _error(13, Code.FAILED_PRECONDITION, "etcdserver: lease already exists")
LEASE_TTL_TOO_LARGE: Final = _error(14, Code.OUT_OF_RANGE, "etcdserver: too large lease TTL")
WATCH_CANCELED: Final = _error(15, Code.CANCELED, "etcdserver: watch canceled")
MEMBER_EXIST: Final = _error(16, Code.FAILED_PRECONDITION, "etcdserver: member ID already exist")
PEER_URL_EXIST: Final = _error(17, Code.FAILED_PRECONDITION, "etcdserver: Peer URLs already exists")
MEMBER_NOT_ENOUGH_STARTED: Final = _error(
    18,
    Code.UNKNOWN,
    "etcdserver: re-configuration failed due to not enough started members",
)
MEMBER_BAD_URLS: Final = _error(
    19,
    Code.INVALID_ARGUMENT,
    "etcdserver: given member URLs are invalid",
)
MEMBER_NOT_FOUND: Final = _error(20, Code.NOT_FOUND, "etcdserver: member not found")
MEMBER_NOT_LEARNER: Final = _error(
    21,
    Code.FAILED_PRECONDITION,
    "etcdserver: can only promote a learner member",
)
LEARNER_NOT_READY: Final = _error(
    22,
    Code.FAILED_PRECONDITION,
    "etcdserver: can only promote a learner member which is in sync with leader",
)
TOO_MANY_LEARNERS: Final = _error(
    23,
    Code.FAILED_PRECONDITION,
    "etcdserver: too many learner members in cluster",
)
CLUSTER_ID_MISMATCH: Final = _error(24, Code.FAILED_PRECONDITION, "etcdserver: cluster ID mismatch")
REQUEST_TOO_LARGE: Final = _error(25, Code.INVALID_ARGUMENT, "etcdserver: request is too large")
REQUEST_TOO_MANY_REQUESTS: Final = _error(26, Code.UNKNOWN, "etcdserver: too many requests")
ROOT_USER_NOT_EXIST: Final = _error(
    27,
    Code.FAILED_PRECONDITION,
    "etcdserver: root user does not exist",
)
ROOT_ROLE_NOT_EXIST: Final = _error(
    28,
    Code.FAILED_PRECONDITION,
    "etcdserver: root user does not have root role",
)
USER_ALREADY_EXIST: Final = _error(
    29,
    Code.FAILED_PRECONDITION,
    "etcdserver: user name already exists",
)
USER_EMPTY: Final = _error(30, Code.INVALID_ARGUMENT, "etcdserver: user name is empty")
USER_NOT_FOUND: Final = _error(31, Code.FAILED_PRECONDITION, "etcdserver: user name not found")
ROLE_ALREADY_EXIST: Final = _error(
    32,
    Code.FAILED_PRECONDITION,
    "etcdserver: role name already exists",
)
ROLE_NOT_FOUND: Final = _error(33, Code.FAILED_PRECONDITION, "etcdserver: role name not found")
ROLE_EMPTY: Final = _error(34, Code.INVALID_ARGUMENT, "etcdserver: role name is empty")
AUTH_FAILED: Final = _error(
    35,
    Code.INVALID_ARGUMENT,
    "etcdserver: authentication failed, invalid user ID or password",
)
PERMISSION_NOT_GIVEN: Final = _error(36, Code.INVALID_ARGUMENT, "etcdserver: permission not given")
PERMISSION_DENIED: Final = _error(37, Code.PERMISSION_DENIED, "etcdserver: permission denied")
ROLE_NOT_GRANTED: Final = _error(
    38,
    Code.FAILED_PRECONDITION,
    "etcdserver: role is not granted to the user",
)
PERMISSION_NOT_GRANTED: Final = _error(
    39,
    Code.FAILED_PRECONDITION,
    "etcdserver: permission is not granted to the role",
)
AUTH_NOT_ENABLED: Final = _error(
    40,
    Code.FAILED_PRECONDITION,
    "etcdserver: authentication is not enabled",
)
INVALID_AUTH_TOKEN: Final = _error(41, Code.UNAUTHENTICATED, "etcdserver: invalid auth token")
INVALID_AUTH_MGMT: Final = _error(42, Code.INVALID_ARGUMENT, "etcdserver: invalid auth management")
AUTH_OLD_REVISION: Final = _error(
    43,
    Code.INVALID_ARGUMENT,
    "etcdserver: revision of auth store is old",
)
NO_LEADER: Final = _error(44, Code.UNAVAILABLE, "etcdserver: no leader")
NOT_LEADER: Final = _error(45, Code.FAILED_PRECONDITION, "etcdserver: not leader")
LEADER_CHANGED: Final = _error(46, Code.UNAVAILABLE, "etcdserver: leader changed")
NOT_CAPABLE: Final = _error(47, Code.FAILED_PRECONDITION, "etcdserver: not capable")
STOPPED: Final = _error(48, Code.UNAVAILABLE, "etcdserver: server stopped")
TIMEOUT: Final = _error(49, Code.UNAVAILABLE, "etcdserver: request timed out")
TIMEOUT_DUE_TO_LEADER_FAIL: Final = _error(
    50,
    Code.UNAVAILABLE,
    "etcdserver: request timed out, possibly due to previous leader failure",
)
TIMEOUT_DUE_TO_CONNECTION_LOST: Final = _error(
    51,
    Code.UNAVAILABLE,
    "etcdserver: request timed out, possibly due to connection lost",
)
TIMEOUT_WAIT_APPLIED_INDEX: Final = _error(
    52,
    Code.UNAVAILABLE,
    "etcdserver: request timed out, waiting for the applied index took too long",
)
UNHEALTHY: Final = _error(53, Code.UNAVAILABLE, "etcdserver: unhealthy cluster")
CORRUPT: Final = _error(54, Code.DATA_LOSS, "etcdserver: corrupt cluster")
NOT_SUPPORTED_FOR_LEARNER: Final = _error(
    55,
    Code.FAILED_PRECONDITION,
    "etcdserver: rpc not supported for learner",
)
BAD_LEADER_TRANSFEREE: Final = _error(
    56,
    Code.FAILED_PRECONDITION,
    "etcdserver: bad leader transferee",
)
WRONG_DOWNGRADE_VERSION_FORMAT: Final = _error(
    57,
    Code.INVALID_ARGUMENT,
    "etcdserver: wrong downgrade target version format",
)
INVALID_DOWNGRADE_TARGET_VERSION: Final = _error(
    58,
    Code.INVALID_ARGUMENT,
    "etcdserver: invalid downgrade target version",
)
CLUSTER_VERSION_UNAVAILABLE: Final = _error(
    59,
    Code.FAILED_PRECONDITION,
    "etcdserver: cluster version not found during downgrade",
)
DOWNGRADE_IN_PROCESS: Final = _error(
    60,
    Code.FAILED_PRECONDITION,
    "etcdserver: cluster has a downgrade job in progress",
)
NO_INFLIGHT_DOWNGRADE: Final = _error(
    61,
    Code.FAILED_PRECONDITION,
    "etcdserver: no inflight downgrade job",
)
CANCELED: Final = _error(62, Code.CANCELED, "etcdserver: request canceled")
DEADLINE_EXCEEDED: Final = _error(
    63,
    Code.DEADLINE_EXCEEDED,
    "etcdserver: context deadline exceeded",
)

# Ours: never seen by a client, a gateway opens a new session or drops a late copy.
SESSION_CLOSED: Final = _error(64, Code.UNAVAILABLE, "etcdserver: session closed")
ANSWERED_ALREADY: Final = _error(65, Code.UNAVAILABLE, "etcdserver: request already answered")
UNKNOWN_METHOD: Final = _error(66, Code.UNKNOWN, "etcdserver: unknown method")

TIMEOUT_LEADER_TRANSFER: Final = _error(
    67,
    Code.UNKNOWN,  # etcd has no code for it
    "etcdserver: request timed out, leader transfer took too long",
)

# Where etcd's gRPC fails to send what was carried out.
RESPONSE_TOO_LARGE: Final = _error(
    68,
    Code.RESOURCE_EXHAUSTED,
    "etcdserver: response is too large",
)

# Where etcd has no bound.
TOO_MANY_CHANGES: Final = _error(
    69,
    Code.RESOURCE_EXHAUSTED,
    "etcdserver: too many changes in one request",
)

TIMEOUTS: Final = frozenset(
    {
        LEADER_CHANGED,  # only told to a read that was retried until its time was over
        TIMEOUT,
        TIMEOUT_DUE_TO_LEADER_FAIL,
        TIMEOUT_DUE_TO_CONNECTION_LOST,
        TIMEOUT_WAIT_APPLIED_INDEX,
        TIMEOUT_LEADER_TRANSFER,
    }
)
"""What a request is told that was given up because its time was over."""


class RevisionOverflowError(Exception):
    """More changes in one revision, or more revisions, than the history's key can hold."""
