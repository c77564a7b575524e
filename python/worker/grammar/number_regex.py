"""Regular expressions for numbers between two bounds, as JSON has them but for exponents."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

_ANY_FRACTION = r"(?:\.[0-9]+)?"


@dataclass(frozen=True)
class Bound:
    """`is_open`: the value itself is outside."""

    value: Decimal
    is_open: bool = False

    def mirrored(self) -> Bound:
        return Bound(-self.value, self.is_open)

    def split(self) -> tuple[int, str]:
        """The whole part and the digits behind the point, of a bound that is not negative."""
        whole, _, fraction = f"{self.value:f}".partition(".")
        return int(whole), fraction.rstrip("0")


_ZERO = Bound(Decimal(0))


def number_regex(low: Bound | None, high: Bound | None) -> str | None:
    """What matches all decimal numbers from `low` to `high`; None if there are none. No -0."""
    parts = []
    if low is None or low.value < 0:
        least = Bound(Decimal(0), True) if high is None or high.value >= 0 else high.mirrored()
        negative = _not_negative(least, None if low is None else low.mirrored())
        parts += [f"-(?:{part})" for part in negative]
    if high is None or high.value >= 0:
        parts += _not_negative(_ZERO if low is None or low.value < 0 else low, high)
    return f"(?:{'|'.join(parts)})" if parts else None


def integer_regex(low: int | None, high: int | None) -> str | None:
    """The same for whole numbers, both bounds inside."""
    parts = []
    if low is None or low < 0:
        least = 1 if high is None or high >= 0 else -high
        parts += [f"-{part}" for part in _naturals(least, None if low is None else -low)]
    if high is None or high >= 0:
        parts += _naturals(max(low or 0, 0), high)
    return f"(?:{'|'.join(parts)})" if parts else None


def _naturals(low: int, high: int | None) -> list[str]:
    """Alternatives for the whole numbers from `low` >= 0, by their length."""
    longest = len(str(low if high is None else high))
    parts = []
    for length in range(len(str(low)), longest + 1):
        least = max(low, 10 ** (length - 1) if length > 1 else 0)
        most = 10**length - 1 if high is None else min(high, 10**length - 1)
        if least <= most:
            parts.append(_of_one_length(str(least), str(most)))
    if high is None:
        parts.append(f"[1-9][0-9]{{{longest},}}")
    return parts


def _of_one_length(low: str, high: str) -> str:
    """All strings of digits between two that are equally long."""
    if not low:
        return ""
    if low[0] == high[0]:
        return low[0] + _of_one_length(low[1:], high[1:])
    first, last, rest = int(low[0]), int(high[0]), len(low) - 1
    parts = []
    if low[1:].strip("0"):
        parts.append(low[0] + _of_one_length(low[1:], "9" * rest))
        first += 1
    if high[1:].strip("9"):
        parts.append(high[0] + _of_one_length("0" * rest, high[1:]))
        last -= 1
    if first <= last:
        parts.append(f"[{first}-{last}]" + (f"[0-9]{{{rest}}}" if rest else ""))
    return f"(?:{'|'.join(parts)})"


def _not_negative(low: Bound, high: Bound | None) -> list[str]:
    """Alternatives for the decimal numbers from `low` >= 0."""
    whole, fraction = low.split()
    if high is None:
        parts = _with_fraction(whole, _Fraction(fraction, low.is_open))
        return parts + [part + _ANY_FRACTION for part in _naturals(whole + 1, None)]
    last, last_fraction = high.split()
    if whole == last:
        both = _Fraction(fraction, low.is_open, last_fraction, high.is_open)
        return _with_fraction(whole, both)
    if whole > last:
        return []
    parts = _with_fraction(whole, _Fraction(fraction, low.is_open))
    parts += [part + _ANY_FRACTION for part in _naturals(whole + 1, last - 1)]
    return parts + _with_fraction(last, _Fraction("", False, last_fraction, high.is_open))


@dataclass(frozen=True)
class _Fraction:
    """The strings of digits behind a point whose value is between two others; no `high` is one."""

    low: str
    low_open: bool
    high: str | None = None
    high_open: bool = False

    @property
    def has_zero(self) -> bool:
        """Whether there may be no digits."""
        return not (self.low or self.low_open) and not (self.high == "" and self.high_open)

    def digits(self) -> str | None:
        """What matches them; at least one digit. None if there are none."""
        if self.high is None and not self.low:
            return "[0-9]*[1-9][0-9]*" if self.low_open else "[0-9]+"
        if self.high == "":
            return "0+" if self.has_zero else None
        parts: dict[str, str] = {}  # what may follow: digits before it
        for digit in "0123456789":
            rest = self._behind(digit)
            more = rest and rest.digits()
            if rest is not None and (rest.has_zero or more):
                tail = "" if more is None else f"(?:{more}){'?' if rest.has_zero else ''}"
                parts[tail] = parts.get(tail, "") + digit
        return "|".join(f"[{digits}]{tail}" for tail, digits in parts.items()) or None

    def _behind(self, digit: str) -> _Fraction | None:
        """What may follow `digit`; None if it may not come."""
        least = self.low[:1] or "0"
        if digit < least or (self.high is not None and digit > self.high[0]):
            return None
        low, low_open = (self.low[1:], self.low_open) if digit == least else ("", False)
        if self.high is not None and digit == self.high[0]:
            return _Fraction(low, low_open, self.high[1:], self.high_open)
        return _Fraction(low, low_open)


def _with_fraction(whole: int, fraction: _Fraction) -> list[str]:
    digits = fraction.digits()
    if digits is None:
        return [str(whole)] if fraction.has_zero else []
    return [rf"{whole}(?:\.(?:{digits})){'?' if fraction.has_zero else ''}"]
