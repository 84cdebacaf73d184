"""The process of an isolated actor: loads no more than the actor itself needs.

Its argument is a start order as JSON, as the zygote gets it.
"""

from __future__ import annotations

import json
import sys

from supervisor.process import run_child

if __name__ == "__main__":
    run_child(json.loads(sys.argv[1]))
