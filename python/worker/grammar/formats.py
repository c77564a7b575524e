"""The formats of strings that JSON schemas know, as regular expressions for the whole of them."""

from __future__ import annotations

_MONTH_AND_DAY = (
    r"(?:(?:0[1-9]|1[0-2])-(?:0[1-9]|1\d|2[0-8])|(?:0[13-9]|1[0-2])-(?:29|30)"
    r"|(?:0[13578]|1[02])-31)"
)
_LEAP_DAY = r"[1-9]\d(?:0[48]|[2468][048]|[13579][26])-02-29"
_DATE = rf"(?:[1-9]\d{{3}}-{_MONTH_AND_DAY}|{_LEAP_DAY})"
_CLOCK = r"(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,9})?"
_OFFSET = r"(?:Z|[+-](?:[01]\d|2[0-3]):[0-5]\d)"
_BYTE = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
_HOST = rf"{_LABEL}(?:\.{_LABEL}){{0,8}}"
_PERIOD = r"(?:\d+Y(?:\d+M(?:\d+D)?)?|\d+M(?:\d+D)?|\d+D)"
_PERIOD_TIME = r"T(?:\d+H(?:\d+M(?:\d+S)?)?|\d+M(?:\d+S)?|\d+S)"
_SEGMENT = r"[A-Za-z0-9._~-]{0,24}"
_POINTER = r"(?:/(?:[^~/\0]|~[01])*)*"
_ORIGIN = rf"[A-Za-z][A-Za-z0-9+.-]{{0,15}}://{_HOST}(?::\d{{1,4}})?"
_URI_CHARACTER = r"(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})"

FORMATS = {
    "date": _DATE,
    "time": _CLOCK + _OFFSET,
    "date-time": f"{_DATE}T{_CLOCK}{_OFFSET}",
    "duration": rf"P(?:{_PERIOD}(?:{_PERIOD_TIME})?|{_PERIOD_TIME}|\d+W)",
    "email": rf"[A-Za-z0-9_%+-]{{1,32}}(?:\.[A-Za-z0-9_%+-]{{1,31}})?@{_HOST}",
    "hostname": _HOST,
    "ipv4": rf"{_BYTE}(?:\.{_BYTE}){{3}}",
    "ipv6": r"(?:[0-9A-Fa-f]{1,4}:){7}[0-9A-Fa-f]{1,4}",
    "uuid": r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}",
    "uri": rf"{_ORIGIN}(?:/{_URI_CHARACTER}*)*"
    rf"(?:\?{_URI_CHARACTER}*)?(?:#{_URI_CHARACTER}*)?",
    "json-pointer": _POINTER,
    "relative-json-pointer": rf"(?:0|[1-9]\d*)(?:#|{_POINTER})",
}
# What is more general is written as what is known.
FORMATS |= {"idn-email": FORMATS["email"], "idn-hostname": FORMATS["hostname"]}
FORMATS |= dict.fromkeys(("uri-reference", "iri", "iri-reference"), FORMATS["uri"])

# Beside a `maxLength`: shorter than what such schemas have.
BOUNDED_FORMATS = {"uri": rf"{_ORIGIN}(?:/{_SEGMENT}){{0,4}}"}
