"""Two float32 bit patterns side by side."""

from __future__ import annotations

import struct
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bit:
    """One bit of a pattern.

    Attributes:
        value: ``0`` or ``1``.
        differs: whether the other pattern has the other value here.
        field: ``sign``, ``exponent`` or ``mantissa``.
    """

    value: str
    differs: bool
    field: str


@dataclass(frozen=True, slots=True)
class BitPair:
    """Two patterns, most significant bit first.

    Attributes:
        positions: numbers of the bits that differ (0 is the least significant), highest first.
    """

    reference: tuple[Bit, ...]
    observed: tuple[Bit, ...]
    positions: tuple[int, ...]

    @property
    def summary(self) -> str:
        """Which bits differ, in words: the marking must not be the only way to tell."""
        if not self.positions:
            return "no bit differs"
        where = ", ".join(str(position) for position in self.positions)
        if len(self.positions) == 1:
            return f"1 of 32 bits differs (bit {where}; 0 is the least significant)"
        return f"{len(self.positions)} of 32 bits differ (bits {where}; 0 is the least significant)"


def bit_pair(reference: str, observed: str) -> BitPair:
    """The patterns ``0x........`` of two float32 values, bit by bit."""
    first, second = int(reference, 16), int(observed, 16)
    changed = first ^ second
    positions = tuple(position for position in range(31, -1, -1) if changed >> position & 1)
    return BitPair(_bits(first, changed), _bits(second, changed), positions)


def _bits(pattern: int, changed: int) -> tuple[Bit, ...]:
    return tuple(
        Bit(str(pattern >> position & 1), bool(changed >> position & 1), _field(position))
        for position in range(31, -1, -1)
    )


def _field(position: int) -> str:
    if position == 31:
        return "sign"
    return "exponent" if position >= 23 else "mantissa"


def float_text(pattern: str) -> str:
    """The value of a pattern in the nine digits that tell any two float32 apart; also ``nan`` and ``inf``."""
    value: float = struct.unpack(">f", bytes.fromhex(pattern[2:]))[0]
    return f"{value:.9g}"
