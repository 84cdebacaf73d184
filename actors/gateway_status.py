"""What a gateway knows of its member without asking anyone: the words of the board."""

from __future__ import annotations

from actors.metrics import ApplierMetric, RaftMetric, TransportMetric
from storage.reader import Reader
from transport.counters import Board, Cell


class MemberWords:
    """Implements api.backend.MemberStatus over the board; readable while any actor is dead."""

    def __init__(self, board: Board, quota_bytes: int) -> None:
        self._words = board.words
        self._raft = board.block("raft-node") + Cell.METRICS
        self._applier = board.block("applier") + Cell.METRICS
        self._transport = board.block("transport") + Cell.METRICS
        self.quota_bytes = quota_bytes
        self.is_learner = False  # these four as of the last `refresh`
        self.cluster_version = ""  # empty while undecided
        self.db_bytes = 0
        self.db_in_use_bytes = 0

    def raft(self, word: RaftMetric) -> int:
        """Read a word of the raft node."""
        return self._words[self._raft + word]

    def applier(self, word: ApplierMetric) -> int:
        """Read a word of the applier."""
        return self._words[self._applier + word]

    def refresh(self, reader: Reader) -> None:
        """Look up what only the database knows: its size, its version, what this member is."""
        self.db_bytes, self.db_in_use_bytes = reader.sizes()
        own = self.member_id
        with reader.view() as view:
            self.is_learner = any(m.is_learner for m in view.members() if m.id == own)
            self.cluster_version = view.cluster_version() or ""

    @property
    def member_id(self) -> int:
        """The member's own id; 0 until the raft node has read it."""
        return self._words[self._raft + RaftMetric.MEMBER_ID]

    @property
    def cluster_id(self) -> int:
        """The cluster's id; 0 until the raft node has read it."""
        return self._words[self._raft + RaftMetric.CLUSTER_ID]

    @property
    def leader(self) -> int:
        """The leader's id; 0 when there is none."""
        return self._words[self._raft + RaftMetric.LEADER]

    @property
    def term(self) -> int:
        """The raft term."""
        return self._words[self._raft + RaftMetric.TERM]

    @property
    def committed_index(self) -> int:
        """The committed index."""
        return self._words[self._raft + RaftMetric.COMMITTED_INDEX]

    @property
    def applied_index(self) -> int:
        """The applied index; a hint, the truth is in a view."""
        return self._words[self._applier + ApplierMetric.APPLIED_INDEX]

    @property
    def revision(self) -> int:
        """The store's revision; a hint, the truth is in a view."""
        return self._words[self._applier + ApplierMetric.REVISION]

    @property
    def lowest_version(self) -> int:
        """The lowest server version of all members, packed; 0 while one is unknown."""
        return self._words[self._transport + TransportMetric.LOWEST_VERSION]

    @property
    def is_leader(self) -> bool:
        """Whether this member leads."""
        return bool(self._words[self._raft + RaftMetric.IS_LEADER])

    @property
    def is_sole_voter(self) -> bool:
        """Whether everything ever acknowledged in the cluster is in this member's database.

        The raft node says so while it leads as the only voter, without learners, and the database
        has caught up with its term. Nobody else can acknowledge anything then, and what this
        member acknowledges it has committed before, so a view opened now is linearizable without
        asking for an index.
        True outlives the raft node: without it no voter can be added either.
        """
        return bool(self._words[self._raft + RaftMetric.SOLE_VOTER])

    @property
    def no_space(self) -> bool:
        """Whether the disk is full: somebody waits for space, or the reserve is used up."""
        words = self._words
        return bool(
            words[self._applier + ApplierMetric.NO_SPACE] or words[self._raft + RaftMetric.NO_SPACE]
        )
