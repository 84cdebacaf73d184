"""Whether a member that has no history may take part.

A member that begins anew with the name and URLs of one that has been up has lost its data: with its
vote somebody could be elected who lacks what it had acknowledged. So it asks first, as etcd does.
The answer to its transport's first ping tells whether the cluster knows it (peer_wire.Standing),
and until then nothing of raft is heard or said and raft's clock stands still. Members of a new
cluster find each other so.

A history is a term: nobody is elected in the first one, which the configuration was made in.
"""

from __future__ import annotations

from collections.abc import Callable

from storage.failures import LostDataError
from transport.peer_wire import Standing


class Admission:
    """See the module docstring. Knows no clock."""

    def __init__(self, member_id: int, standing: Callable[[], int], *, asks: bool) -> None:
        """`standing()` is what the transport has heard, `asks` says that there is no history."""
        self._member_id = member_id
        self._standing = standing
        self._asks = asks

    def granted(self) -> bool:
        """Tell whether it may take part by now. Raises LostDataError if it never may."""
        if self._asks:
            standing = self._standing()
            if standing == Standing.BOOTSTRAPPED:
                raise LostDataError(
                    f"member {self._member_id:x} has already been bootstrapped: this data "
                    "directory is not the one it had. With --unsafe-rejoin it takes part all the "
                    "same, and what was acknowledged with its help may be lost"
                )
            self._asks = standing == Standing.UNKNOWN
        return not self._asks
