"""One line for every bad argument: what it is called, what is allowed, what was given."""

import math
import numbers
from collections.abc import Callable, Collection
from difflib import get_close_matches
from importlib import import_module
from typing import Any

from torch import Tensor


def library(name: str, user: str) -> Any:
    """The module ``name``, for which not everyone has a use; ImportError, with what to install, if it is missing."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise ImportError(lacking(user, error), name=error.name) from error


def lacking(user: str, error: ModuleNotFoundError) -> str:
    """One line on what is not installed."""
    package = "scikit-learn" if error.name == "sklearn" else str(error.name).replace("_", "-")
    return f"{user} needs {error.name}, which is not installed: pip install {package}"


def as_number(value: Any) -> float | None:
    """``value`` as a float; None unless it is one real number (True and False are none)."""
    if isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex():
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return None
    try:
        return float(value)
    except OverflowError:  # an int beyond the floats
        return None


def _checked(value: Any, name: str, allowed: str, fits: Callable[[float], bool]) -> float:
    number = as_number(value)
    if number is None or not fits(number):
        raise ValueError(f"{name} must be a {allowed}, got {value!r}")
    return number


def check_probability(p: Any, name: str = "p") -> float:
    """``p`` as a float; ValueError unless 0 <= p < 1."""
    return _checked(p, name, f"number with 0 <= {name} < 1 (the probability to drop)", lambda x: 0 <= x < 1)


def check_exponent(q: Any, name: str = "q") -> float:
    """``q`` as a float; ValueError unless it is finite and >= 0."""
    return _checked(q, name, "finite number >= 0 (the exponent of the L_q penalty)", lambda x: 0 <= x < math.inf)


def check_fraction(value: Any, name: str = "target_fraction", *, zero: bool = True) -> float:
    """``value`` as a float; ValueError unless 0 <= value <= 1 (0 < value without ``zero``)."""
    allowed = f"number with 0 <{'=' * zero} {name} <= 1"
    return _checked(value, name, allowed, lambda x: 0 <= x <= 1 and (zero or x > 0))


def check_share(value: Any, name: str, *, zero: bool = True) -> float:
    """``value`` as a float; ValueError unless 0 <= value < 1 (0 < value without ``zero``)."""
    allowed = f"number with 0 <{'=' * zero} {name} < 1"
    return _checked(value, name, allowed, lambda x: 0 <= x < 1 and (zero or x > 0))


def check_positive(value: Any, name: str, *, zero: bool = True) -> float:
    """``value`` as a float; ValueError unless it is finite and >= 0 (> 0 without ``zero``)."""
    allowed = f"finite number >{'=' * zero} 0"
    return _checked(value, name, allowed, lambda x: 0 <= x < math.inf and (zero or x > 0))


def check_whole(value: Any, name: str, least: int = 1, most: int | None = None) -> int:
    """``value`` as an int; ValueError unless it is a whole number from ``least`` to ``most`` (default: no limit)."""
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not whole or value < least or (most is not None and value > most):
        limits = f">= {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{name} must be a whole number {limits}, got {value!r}")
    return int(value)


def check_choice(value: Any, allowed: Collection[str], name: str) -> str:
    """``value`` itself; ValueError, with the nearest choice, unless it is one of ``allowed``."""
    if value not in list(allowed):
        near = get_close_matches(str(value), allowed, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}{hint}")
    return str(value)
