"""The configuration file: YAML or JSON with etcd's keys.

Values have the types of etcd's structs: durations are integer nanoseconds, URL lists, `cors`,
`host-whitelist` and `feature-gates` are strings, `cipher-suites`, `log-outputs`, `allowed-cn`
and the discovery endpoints are lists. Unknown keys are ignored, null leaves the default.
"""

from __future__ import annotations

from pathlib import Path

from supervisor.command_line import Settings
from supervisor.errors import ConfigError
from supervisor.flags import SETTINGS, Flag, Kind, Value
from supervisor.urls import parse_urls

_WORDS = {Kind.BOOL: "bool", Kind.INT: "int64", Kind.UINT: "uint64", Kind.UINT32: "uint32"}
_BOUNDS = {
    Kind.INT: (-(1 << 63), (1 << 63) - 1),
    Kind.UINT: (0, (1 << 64) - 1),
    Kind.UINT32: (0, (1 << 32) - 1),
    Kind.DURATION: (-(1 << 63), (1 << 63) - 1),
}
_LISTS_IN_FILE = frozenset(
    {
        "cipher-suites",
        "log-outputs",
        "client-cert-allowed-hostname",
        "peer-cert-allowed-cn",
        "peer-cert-allowed-hostname",
        "discovery-endpoints",
    }
)


def read_config_file(path: str) -> Settings:
    """Read a file; command line and environment play no part in it.

    Raises ConfigError (exit 1) if the file can't be opened, isn't YAML or has a wrong type.
    """
    try:
        text = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"open {path}: {(error.strerror or str(error)).lower()}") from None
    import yaml  # here, because most members have no file to read

    try:
        document = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"error converting YAML to JSON: yaml: {reason}") from None
    if document is None:
        document = {}
    if not isinstance(document, dict):
        raise ConfigError(_mismatch(document, "embed.configYAML", ""))
    settings = Settings()
    peer_security = document.get("peer-transport-security", {})
    if peer_security is not None and not isinstance(peer_security, dict):
        raise ConfigError("invalid peer-transport-security")
    for flag in SETTINGS:
        value = _look_up(document, flag)
        if value is not None:
            settings.values[flag.name] = _convert(flag, value)
            settings.explicit.add(flag.name)
    return settings


def _look_up(document: dict[object, object], flag: Flag) -> object:
    """Return what stands at the flag's key, or None."""
    key = flag.name if flag.key is None else flag.key
    if not key:
        return None
    node: object = document
    walked: list[str] = []
    for part in key.split("."):
        if node is None:
            return None
        if not isinstance(node, dict):
            raise ConfigError(_mismatch(node, "struct", ".".join(walked)))
        node = node.get(part)
        walked.append(part)
    return node


def _convert(flag: Flag, value: object) -> Value:
    if flag.kind in (Kind.BOOL, *_BOUNDS):
        return _number(flag, value)
    if flag.name in _LISTS_IN_FILE:
        if not isinstance(value, list):
            raise ConfigError(_mismatch(value, "[]string", flag.name))
        return tuple(_text(flag, item) for item in value)
    text = _text(flag, value)
    if flag.kind in (Kind.STRING, Kind.CHOICE):
        return text  # a wrong choice has its own error among those of validation
    if not text:
        return flag.default_value()
    try:
        if flag.kind is Kind.URLS:
            return parse_urls(text.split(","))
        return flag.read(text, flag.default_value())
    except ValueError as error:
        if flag.kind is Kind.GATES:
            raise ConfigError(str(error)) from None
        raise ConfigError.plain(f"unexpected error setting up {flag.name}: {error}\n", 1) from None


def _number(flag: Flag, value: object) -> Value:
    if flag.kind is Kind.BOOL:
        if isinstance(value, bool):
            return value
    elif isinstance(value, int) and not isinstance(value, bool):
        low, high = _BOUNDS[flag.kind]
        if low <= value <= high:
            return value
    word = _WORDS.get(flag.kind, "time.Duration")
    raise ConfigError(_mismatch(value, word, flag.name))


def _text(flag: Flag, value: object) -> str:
    """Return a scalar as a string: numbers and booleans may stand where a string is wanted."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (dict, list)):
        raise ConfigError(_mismatch(value, "string", flag.name))
    return str(value)


def _mismatch(value: object, wanted: str, key: str) -> str:
    """Return the text of Go's json package for a value of the wrong type."""
    found = "object" if isinstance(value, dict) else "array" if isinstance(value, list) else ""
    if not found:
        found = "bool" if isinstance(value, bool) else "string"
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            found = f"number {value}"
    place = (
        f"Go struct field configYAML.{key} of type {wanted}"
        if key
        else f"Go value of type {wanted}"
    )
    reason = f"json: cannot unmarshal {found} into {place}"
    return f"error unmarshaling JSON: while decoding JSON: {reason}"
