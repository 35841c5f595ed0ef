"""Moments of readings in whole numbers: they merge exactly, in any order, and are rounded once, when they are read."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from mes.kpi.grid import Grid


@dataclass(frozen=True, slots=True)
class Moments:
    """Count, sum and sum of squares of readings in steps of their grid; the smallest and largest reading.

    `low` and `high` are in the unit of the characteristic, +inf and -inf where there is none.
    """

    grid: Grid
    n: int = 0
    total: int = 0
    squares: int = 0
    low: float = math.inf
    high: float = -math.inf

    def merge(self, other: Moments) -> Moments:
        """The moments of both. ValueError where their grids differ."""
        if self.grid != other.grid:
            raise ValueError(f"moments on {self.grid} and on {other.grid} cannot be merged: sum the readings anew on one grid")
        return Moments(
            self.grid,
            self.n + other.n,
            self.total + other.total,
            self.squares + other.squares,
            min(self.low, other.low),
            max(self.high, other.high),
        )

    def mean(self) -> float | None:
        """None where there is no reading."""
        if self.n == 0:
            return None
        return float(Fraction(self.grid.origin) + Fraction(self.total, self.n) * Fraction(self.grid.step))

    def variance(self) -> float | None:
        """With n - 1, in the unit squared; None below two readings."""
        exact = self._variance()
        return None if exact is None else float(exact)

    def sd(self) -> float | None:
        """Square root of the variance; None below two readings."""
        exact = self._variance()
        return None if exact is None else _root(exact)

    def _variance(self) -> Fraction | None:
        if self.n < 2:
            return None
        return Fraction(self.n * self.squares - self.total**2, self.n * (self.n - 1)) * Fraction(self.grid.step) ** 2


def _root(x: Fraction) -> float:
    """Square root, correctly rounded but for a last bit of 2^-70 or so: the integer root of x scaled to 140 bits or more."""
    shift = max(0, 140 - x.numerator.bit_length() + x.denominator.bit_length())
    shift += shift % 2
    return float(Fraction(math.isqrt((x.numerator << shift) // x.denominator), 1 << shift // 2))
