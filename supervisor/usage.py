"""What `--help` and `--version` print."""

from __future__ import annotations

import platform
import sys
from typing import Final

from kv.version import VERSION
from supervisor.feature_gates import GATES, SPECIAL
from supervisor.flags import SECTIONS, Flag

USAGE: Final = """\
Usage:

  trouped [flags]
    Start a member.

  trouped --version
    Show the version.

  trouped -h | --help
    Show this help.

  trouped --config-file PATH
    Start a member from a YAML or JSON file; all other flags and variables are then ignored.
    Durations in the file are whole nanoseconds.
"""

_MACHINES: Final = {"x86_64": "amd64", "aarch64": "arm64"}


def help_text() -> str:
    """Return the usage and every flag with its default, by section."""
    lines = [USAGE]
    for section, flags in SECTIONS.items():
        lines.append(f"{section}:")
        for flag in flags:
            lines += [f"  --{flag.name} '{_shown_default(flag)}'", f"    {flag.usage}"]
            if flag.name == "feature-gates":
                lines += [f"    {line}" for line in _gates()]
        lines.append("")
    lines.append("Every flag but those of the section Program is also a variable: ETCD_DATA_DIR.")
    return "\n".join(lines) + "\n"


def _shown_default(flag: Flag) -> str:
    return "${name}.etcd" if flag.name == "data-dir" else flag.default


def _gates() -> list[str]:
    special = [f"{name}=true|false ({stage} - default=false)" for name, stage in SPECIAL.items()]
    return special + [
        f"{name}=true|false ({stage} - default={str(default).lower()})"
        for name, (default, stage) in GATES.items()
    ]


def package_version() -> str:
    """Return the version of trouped itself."""
    # Not at the top: a start without --version would pay 15 ms for it.
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("trouped")
    except PackageNotFoundError:  # run from a source tree that nobody installed
        return "unknown"


def operating_system() -> tuple[str, str]:
    """Return system and processor by the names Go has for them: ("linux", "amd64")."""
    machine = platform.machine()
    return sys.platform, _MACHINES.get(machine, machine)


def version_text() -> str:
    """Return the lines of `--version`; the first is etcd's, which tools read."""
    system, machine = operating_system()
    return (
        f"etcd Version: {VERSION}\n"
        f"trouped Version: {package_version()}\n"
        f"Python Version: {platform.python_version()}\n"
        f"Go OS/Arch: {system}/{machine}\n"
    )
