"""What is wrong with a record that somebody may have written to do harm: said shortly, whatever it holds."""

from __future__ import annotations

from pydantic import ValidationError

_TOLD = 1_000
"""With more mistakes than this none is named: pydantic's list of them takes a kilobyte for each."""

_NAME, _PLACE, _WHAT = 60, 300, 300


def first_problem(error: ValidationError) -> str:
    """The first mistake and where in the record it is: ``scope.seed: Input should be a valid integer``."""
    many = error.error_count()
    if many > _TOLD:
        return f"{many:,} mistakes, too many to name one"
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(shortened(str(part), _NAME) for part in first["loc"])
    return f"{shortened(place, _PLACE) or 'the whole'}: {shortened(first['msg'], _WHAT)}"


def shortened(text: str, limit: int = _WHAT) -> str:
    """A text of which nobody bounded the length, for a message."""
    return f"{text[:limit]}..." if len(text) > limit else text
