"""One line for every bad argument: what it is called, what was given, what is allowed."""

import math
import numbers
from typing import Any

from torch import Tensor


def check_probability(p: Any, name: str = "p") -> float:
    """Return ``p`` as a float, or raise ValueError unless it is a number with 0 <= p < 1."""
    value = as_number(p)
    if value is None or not 0.0 <= value < 1.0:
        raise ValueError(f"{name} must be a number with 0 <= {name} < 1 (the probability to drop), got {p!r}")
    return value


def check_exponent(q: Any, name: str = "q") -> float:
    """Return ``q`` as a float, or raise ValueError unless it is a finite number >= 0."""
    value = as_number(q)
    if value is None or not math.isfinite(value) or value < 0.0:
        raise ValueError(f"{name} must be a finite number >= 0 (the exponent of the L_q penalty), got {q!r}")
    return value


def check_fraction(fraction: Any, name: str = "target_fraction") -> float:
    """Return ``fraction`` as a float, or raise ValueError unless it is a number with 0 <= fraction <= 1."""
    value = as_number(fraction)
    if value is None or not 0.0 <= value <= 1.0:
        raise ValueError(f"{name} must be a number with 0 <= {name} <= 1, got {fraction!r}")
    return value


def as_number(value: Any) -> float | None:
    """``value`` as a float, or None unless it is one real number, and no truth value."""
    if isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex():
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return None
    try:
        return float(value)
    except OverflowError:  # an int beyond the floats
        return None


def check_positive(value: Any, name: str, *, zero: bool = True) -> float:
    """Return ``value`` as a float, or raise ValueError unless it is a finite number >= 0 (> 0 without ``zero``)."""
    number = as_number(value)
    if number is None or not math.isfinite(number) or number < 0 or (number == 0 and not zero):
        raise ValueError(f"{name} must be a finite number {'>= 0' if zero else '> 0'}, got {value!r}")
    return number


def check_whole(value: Any, name: str, least: int = 1) -> None:
    """ValueError unless ``value`` is a whole number >= ``least``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be a whole number >= {least}, got {value!r}")


def check_choice(value: Any, allowed: tuple[str, ...], name: str) -> str:
    """Return ``value`` if it is one of ``allowed``, else raise a ValueError that lists them."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")
    return str(value)
