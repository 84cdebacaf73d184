"""Values as Go's standard library reads and prints them: what etcd's flags accept, no more.

Every `parse_` function takes the text of one value and raises ValueError with the text that Go's
`flag` package puts behind "invalid value ...: ".
"""

from __future__ import annotations

import json
import re
from typing import Final

TRUE: Final = frozenset({"1", "t", "T", "true", "TRUE", "True"})
FALSE: Final = frozenset({"0", "f", "F", "false", "FALSE", "False"})

NANOSECOND: Final = 1
MICROSECOND: Final = 1_000
MILLISECOND: Final = 1_000_000
SECOND: Final = 1_000_000_000
MINUTE: Final = 60 * SECOND
HOUR: Final = 60 * MINUTE

_UNITS: Final = {
    "ns": NANOSECOND,
    "us": MICROSECOND,
    "µs": MICROSECOND,  # U+00B5, the micro sign
    "μs": MICROSECOND,  # U+03BC, the Greek letter mu
    "ms": MILLISECOND,
    "s": SECOND,
    "m": MINUTE,
    "h": HOUR,
}
_TERM: Final = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)")
_DIGITS: Final = re.compile(
    r"0[xX](?:_?[0-9a-fA-F])+|0[bB](?:_?[01])+|0[oO](?:_?[0-7])+|0(?:_?[0-7])*|[1-9](?:_?[0-9])*"
)


def parse_bool(text: str) -> bool:
    """Read 1, t, T, true, TRUE, True or their opposites (strconv.ParseBool)."""
    if text in TRUE:
        return True
    if text in FALSE:
        return False
    raise ValueError("parse error")


def parse_int(text: str, bits: int = 64) -> int:
    """Read a signed integer with Go's base prefixes and underscores (strconv.ParseInt base 0)."""
    negative = text.startswith("-")
    value = _magnitude(text[1:] if text[:1] in ("+", "-") else text)
    value = -value if negative else value
    if not -(1 << bits - 1) <= value < 1 << bits - 1:
        raise ValueError("value out of range")
    return value


def parse_uint(text: str, bits: int = 64) -> int:
    """Read an unsigned integer; a sign is a syntax error (strconv.ParseUint base 0)."""
    value = _magnitude(text)
    if value >= 1 << bits:
        raise ValueError("value out of range")
    return value


def _magnitude(text: str) -> int:
    if not _DIGITS.fullmatch(text):
        raise ValueError("parse error")
    digits = text.replace("_", "")
    if len(digits) > 1 and digits[0] == "0" and digits[1].isdigit():
        return int(digits, 8)
    return int(digits, 0)


def parse_duration(text: str) -> int:
    """Read a duration such as `1h0m0s`, `100ms`, `1.5s`, `1us` and return nanoseconds."""
    rest = text[1:] if text[:1] in ("+", "-") else text
    if rest == "0":
        return 0
    if not rest:
        raise ValueError("parse error")
    total = 0
    position = 0
    while position < len(rest):
        term = _TERM.match(rest, position)
        if term is None:
            raise ValueError("parse error")
        whole, _, fraction = term[1].partition(".")
        unit = _UNITS[term[2]]
        total += int(whole or "0") * unit
        if fraction:
            total += int(fraction) * unit // 10 ** len(fraction)
        position = term.end()
    if total >= 1 << 63:
        raise ValueError("parse error")
    return -total if text.startswith("-") else total


def duration_complaint(text: str) -> str:
    """Return what time.ParseDuration says about a text that `parse_duration` refuses."""
    shown = quote(text)
    rest = text[1:] if text[:1] in ("+", "-") else text
    while term := _TERM.match(rest):
        rest = rest[term.end() :]
    number = re.match(r"[0-9]+(?:\.[0-9]*)?|\.[0-9]+", rest)
    if number is None:
        return f"time: invalid duration {shown}"
    unit = re.match(r"[^0-9.]*", rest[number.end() :])
    assert unit is not None
    if not unit[0]:
        return f"time: missing unit in duration {shown}"
    if unit[0] in _UNITS:
        return f"time: invalid duration {shown}"  # too long for 64 bits
    return f"time: unknown unit {quote(unit[0])} in duration {shown}"


def format_duration(nanoseconds: int) -> str:
    """Print nanoseconds as Go's Duration.String does: `1h0m0s`, `1.5s`, `300ms`, `0s`."""
    sign = "-" if nanoseconds < 0 else ""
    rest = abs(nanoseconds)
    if rest == 0:
        return "0s"
    if rest < SECOND:
        for unit, name in ((MILLISECOND, "ms"), (MICROSECOND, "µs"), (NANOSECOND, "ns")):
            if rest >= unit:
                return f"{sign}{_decimal(rest, unit)}{name}"
    minutes, rest = divmod(rest, MINUTE)
    text = f"{_decimal(rest, SECOND)}s"
    if minutes:
        text = f"{minutes % 60}m{text}"
    if minutes >= 60:
        text = f"{minutes // 60}h{text}"
    return sign + text


def _decimal(value: int, unit: int) -> str:
    whole, rest = divmod(value, unit)
    if rest == 0:
        return str(whole)
    fraction = str(rest).rjust(len(str(unit)) - 1, "0").rstrip("0")
    return f"{whole}.{fraction}"


def quote(text: str) -> str:
    """Put a text between double quotes as Go's %q does (for the texts flags are made of)."""
    return json.dumps(text, ensure_ascii=False)
