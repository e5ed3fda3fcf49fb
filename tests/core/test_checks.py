"""The checks of arguments: every kind of value that is none, and every kind of number that is one."""

import math
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
import torch
from refusals import refused

from bridgeout_lite.checks import (
    check_choice,
    check_exponent,
    check_fraction,
    check_positive,
    check_probability,
    check_share,
    check_whole,
)

NO_NUMBERS = ["0.3", None, True, False, [0.5], 0.5j, torch.ones(2), math.nan, math.inf, -math.inf, 10**400]
ABOVE_ZERO = {
    check_fraction: partial(check_fraction, zero=False),
    check_share: partial(check_share, zero=False),
    check_positive: partial(check_positive, zero=False),
}
BAD = [  # check, what it allows, what it refuses
    (check_probability, "number with 0 <= x < 1 (the probability to drop)", [-0.1, 1.0, 1, 2, *NO_NUMBERS]),
    (check_exponent, "finite number >= 0 (the exponent of the L_q penalty)", [-1, -1e-9, *NO_NUMBERS]),
    (check_fraction, "number with 0 <= x <= 1", [-0.1, 1.1, *NO_NUMBERS]),
    (ABOVE_ZERO[check_fraction], "number with 0 < x <= 1", [0, -0.1, 1.1, *NO_NUMBERS]),
    (check_share, "number with 0 <= x < 1", [-0.1, 1.0, 1, 1.5, *NO_NUMBERS]),
    (ABOVE_ZERO[check_share], "number with 0 < x < 1", [0.0, -0.5, 1.0, *NO_NUMBERS]),
    (check_positive, "finite number >= 0", [-1.0, -1e-9, *NO_NUMBERS]),
    (ABOVE_ZERO[check_positive], "finite number > 0", [0, -1.0, *NO_NUMBERS]),
    (check_whole, "whole number >= 1", [0, -3, 1.0, 2.5, np.float64(3), *NO_NUMBERS[:-1]]),
    (partial(check_whole, least=0), "whole number >= 0", [-1, 0.5, None, False]),
    (partial(check_whole, least=2, most=5), "whole number from 2 to 5", [1, 6, 2.0]),
    (partial(check_whole, least=0, most=0), "whole number from 0 to 0", [1, -1]),
]


@pytest.mark.parametrize("check, allowed, value", [(c, a, v) for c, a, values in BAD for v in values])
def test_what_is_not_allowed_is_refused(check, allowed, value):
    assert refused(lambda: check(value, name="x")) == f"x must be a {allowed}, got {value!r}"


@pytest.mark.parametrize("value", ["Odd", "", None, 1, ["odd"]])
def test_a_choice_that_there_is_not(value):
    message = refused(lambda: check_choice(value, {"odd": 1, "even": 2}, "form"))
    assert message.startswith(f"form must be one of 'odd', 'even', got {value!r}")
    assert ("did you mean 'odd'?" in message) == (value in ("Odd", ["odd"]))


@pytest.mark.parametrize(
    "number", [np.float32(0.5), np.float64(0.5), torch.tensor(0.5), torch.tensor([0.5]), Fraction(1, 2), 0.5]
)
def test_any_kind_of_number_will_do(number):
    for check in (check_probability, check_exponent, check_fraction, check_share, check_positive, *ABOVE_ZERO.values()):
        assert check(number, "x") == 0.5 and type(check(number, "x")) is float


def test_the_ends_of_what_is_allowed():
    assert check_fraction(1) == 1.0 and check_fraction(0) == check_share(0, "x") == check_positive(0, "x") == 0.0
    assert [check_whole(n, "n", 2, 5) for n in (2, np.int64(5))] == [2, 5]
    assert type(check_whole(np.int64(5), "n")) is int
    assert check_choice("even", ("odd", "even"), "form") == "even"
