"""A bad argument is refused in one line that says what it is called, what is allowed and what was given."""

import pytest


def refused(call, *parts, error=ValueError):
    """The message with which ``call()`` is refused: one line with each of ``parts`` in it."""
    with pytest.raises(error) as caught:
        call()
    message = str(caught.value)
    assert message and "\n" not in message
    for part in parts:
        assert part in message, f"{part!r} is not in {message!r}"
    return message
