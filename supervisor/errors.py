"""Why a member doesn't start: raised by the code that reads and checks the configuration."""

from __future__ import annotations

from collections.abc import Mapping


class ConfigError(Exception):
    """The configuration is wrong. `str(error)` is etcd's text, `exit_code` is etcd's too.

    With `msg` the error belongs into the log, at `level`, with `fields`; without, its text goes
    to stderr as it is (a flag that can't be parsed: Go prints that with the usage, exit 2).
    """

    def __init__(
        self,
        text: str,
        exit_code: int = 1,
        *,
        level: str = "warn",
        msg: str = "failed to verify flags",
        fields: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(text)
        self.exit_code = exit_code
        self.level = level
        self.msg = msg
        self.fields: dict[str, object] = {"error": text} if fields is None else dict(fields)

    @classmethod
    def plain(cls, text: str, exit_code: int) -> ConfigError:
        """Make an error that is printed, not logged."""
        return cls(text, exit_code, level="", msg="")

    @classmethod
    def at_start(cls, text: str) -> ConfigError:
        """Make an error etcd finds after its flags were good (in StartEtcd): fatal, exit 1."""
        return cls(text, level="fatal", msg="discovery failed")


class HelpRequested(Exception):  # noqa: N818 - a request, not an error
    """`-h` or `--help`: print `str(request)` on stdout and exit 0."""


class VersionRequested(Exception):  # noqa: N818 - a request, not an error
    """`--version`: print `str(request)` on stdout and exit 0."""


class StartError(Exception):
    """The machine doesn't let the member start: a port, a folder or a lock can't be had."""
