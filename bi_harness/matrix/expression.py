"""``-k``: pytest's expression grammar over one text. Pure.

An expression is made of words, ``and``, ``or``, ``not`` and parentheses; a word is met by a text that
contains it, whatever the case. Source: pytest's documentation of ``-k`` ("Using -k expr to select tests based
on their name"). Written anew rather than imported: pytest keeps its own under ``_pytest``.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from bi_harness.errors import UsageError

Matcher = Callable[[str], bool]

_TOKEN = re.compile(r"\s*(?:(\()|(\))|([\w:+\-.\[\]\\/]+))")
_DEEPEST = 50


def compile_expression(text: str) -> Matcher:
    """A function that tells whether a text meets the expression.

    Raises:
        UsageError: the expression is not valid; the message says at which column.
    """
    return _Parser(text).parse()


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = self._scan()
        self._next = 0
        self._depth = 0

    def _scan(self) -> list[tuple[str, int]]:
        tokens: list[tuple[str, int]] = []
        at = 0
        while self._text[at:].strip():
            found = _TOKEN.match(self._text, at)
            if not found:
                at += len(self._text[at:]) - len(self._text[at:].lstrip())
                raise self._error(at, f"unexpected character {self._text[at]!r}")
            tokens.append((found.group().strip(), found.end() - len(found.group().strip())))
            at = found.end()
        return tokens

    def parse(self) -> Matcher:
        matcher = self._either()
        if self._peek() is not None:
            extra, at = self._tokens[self._next]
            raise self._error(at, f'unexpected "{extra}"')
        return matcher

    def _either(self) -> Matcher:
        terms = [self._both()]
        while self._peek() == "or":
            self._next += 1
            terms.append(self._both())
        return terms[0] if len(terms) == 1 else lambda text: any(term(text) for term in terms)

    def _both(self) -> Matcher:
        terms = [self._one()]
        while self._peek() == "and":
            self._next += 1
            terms.append(self._one())
        return terms[0] if len(terms) == 1 else lambda text: all(term(text) for term in terms)

    def _one(self) -> Matcher:
        if self._peek() is None:
            raise self._error(len(self._text), "something is missing at the end")
        word, at = self._tokens[self._next]
        self._next += 1
        if word == "not":
            return self._negated(at)
        if word == "(":
            self._deeper(at)
            inner = self._either()
            if self._peek() != ")":
                raise self._error(at, 'this "(" is never closed')
            self._next += 1
            self._depth -= 1
            return inner
        if word in (")", "and", "or"):
            raise self._error(at, f'unexpected "{word}"')
        needle = word.lower()
        return lambda text: needle in text.lower()

    def _negated(self, at: int) -> Matcher:
        self._deeper(at)
        inner = self._one()
        self._depth -= 1
        return lambda text: not inner(text)

    def _deeper(self, at: int) -> None:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise self._error(at, "nested too deeply")

    def _peek(self) -> str | None:
        return self._tokens[self._next][0] if self._next < len(self._tokens) else None

    def _error(self, at: int, what: str) -> UsageError:
        return UsageError(f"-k {self._text!r}: column {at + 1}: {what}")
