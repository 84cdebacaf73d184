"""The command line and the environment, read as Go's flag package and etcd's pkg/flags do.

1. `-x` and `--x` are the same; `--x=v` or `--x v`; a boolean takes its value behind "=" only.
2. A flag given twice counts the last time. The first word that is no flag ends the flags.
3. An environment variable counts if its flag is not given; an empty one is as good as none.
4. A variable whose flag is given as well is fatal: nobody should guess which one wins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from supervisor.errors import ConfigError, HelpRequested
from supervisor.flags import FLAGS, Flag, Kind, Value
from supervisor.go_syntax import quote
from supervisor.usage import USAGE, help_text

CONFLICT = (
    "conflicting environment variable is shadowed by corresponding command-line flag "
    "(either unset environment variable or disable flag))"
)


@dataclass
class Settings:
    """What flags, variables or a file say, by flag name, and what is to be logged about it."""

    values: dict[str, Value] = field(
        default_factory=lambda: {name: flag.default_value() for name, flag in FLAGS.items()}
    )
    explicit: set[str] = field(default_factory=set)
    """Names of the flags that somebody set."""
    arguments: tuple[str, ...] = ()
    """What follows the flags on the command line."""
    warnings: list[tuple[str, dict[str, object]]] = field(default_factory=list)
    notes: list[tuple[str, dict[str, object]]] = field(default_factory=list)
    """As warnings, for the log at level info."""

    def set(self, flag: Flag, text: str) -> None:
        """Set a flag from the text of its value; raises ValueError with the reason."""
        if flag.kind is Kind.IGNORED:
            fields: dict[str, object] = {"flag-name": flag.name}
            self.warnings.append(("flag is no longer supported - ignoring", fields))
        else:
            self.values[flag.name] = flag.read(text, self.values[flag.name])
        self.explicit.add(flag.name)


def read_command_line(argv: Sequence[str]) -> Settings:
    """Read the arguments behind the program's name.

    Raises HelpRequested, and ConfigError with exit code 2 for what Go's flag package refuses.
    """
    settings = Settings()
    rest = list(argv)
    while rest and len(rest[0]) >= 2 and rest[0].startswith("-"):
        argument = rest.pop(0)
        if argument == "--":
            break
        _read_flag(settings, argument, rest)
    settings.arguments = tuple(rest)
    return settings


def _read_flag(settings: Settings, argument: str, rest: list[str]) -> None:
    """Set the flag in `argument`; its value may be the first of `rest`, which is then taken."""
    name = argument[2:] if argument.startswith("--") else argument[1:]
    if name[0] in "-=":
        raise _refusal(f"bad flag syntax: {argument}")
    name, equals, value = name.partition("=")
    flag = FLAGS.get(name)
    if flag is None:
        if name in ("h", "help"):
            raise HelpRequested(help_text())
        raise _refusal(f"flag provided but not defined: -{name}")
    if not equals:
        if flag.takes_no_argument:
            value = "true"
        elif rest:
            value = rest.pop(0)
        else:
            raise _refusal(f"flag needs an argument: -{name}")
    try:
        settings.set(flag, value)
    except ValueError as error:
        kind = "boolean value" if flag.kind is Kind.BOOL else "value"
        place = f"-{name}" if flag.kind is Kind.BOOL else f"flag -{name}"
        raise _refusal(f"invalid {kind} {quote(value)} for {place}: {error}") from None


def _refusal(text: str) -> ConfigError:
    return ConfigError.plain(f"{text}\n{USAGE}", 2)


def read_environment(settings: Settings, environ: Mapping[str, str]) -> None:
    """Add what the environment says about flags that are not on the command line.

    Raises ConfigError (exit 1) for a value that can't be read and for a variable in conflict
    with the command line. Variables that nobody knows are warned of.
    """
    given = {FLAGS[name].variable for name in settings.explicit}
    used: set[str] = set()
    failure: ConfigError | None = None
    environ = dict(environ)
    version = environ.pop("ETCD_VERSION", "")
    if version:
        settings.warnings.append(
            (
                "cannot set special environment variable",
                {"key": "ETCD_VERSION", "value": version},
            )
        )
    for flag in sorted(FLAGS.values(), key=lambda flag: flag.name):
        text = environ.get(flag.variable, "")
        if not text or flag.variable in given or flag.variable in used:
            continue
        used.add(flag.variable)
        try:
            settings.set(flag, text)
        except ValueError as error:
            failure = ConfigError(f"invalid value {quote(text)} for {flag.variable}: {error}")
            continue
        shown = _shown(flag.variable, text)
        fields: dict[str, object] = {"variable-name": flag.variable, "variable-value": shown}
        settings.notes.append(("recognized and used environment variable", fields))
    _check_environment(settings, environ, given, used)
    if failure is not None:
        raise failure


def _check_environment(
    settings: Settings, environ: Mapping[str, str], given: set[str], used: set[str]
) -> None:
    for variable, text in environ.items():
        if variable in used:
            continue
        if variable in given:
            raise ConfigError(
                f"{CONFLICT}: {variable}",
                level="fatal",
                msg=CONFLICT,
                fields={"environment-variable": variable},
            )
        if variable.startswith("ETCD_"):
            entry = f"{variable}={_shown(variable, text)}"
            fields: dict[str, object] = {"environment-variable": entry}
            settings.warnings.append(("unrecognized environment variable", fields))


def _shown(variable: str, text: str) -> str:
    """Return the value as it may appear in a log; etcd logs passwords too, we don't."""
    return "***" if "PASSWORD" in variable else text
