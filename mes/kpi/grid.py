"""The grid of a characteristic: readings as whole steps from an origin, so that their sums are integers."""

from __future__ import annotations

import math
from dataclasses import dataclass

_MANTISSA = 24  # bits of a float32
_SMALLEST = -149  # exponent of the smallest float32


@dataclass(frozen=True, slots=True)
class Grid:
    """A reading x is the whole number round((x - origin) / step), halves to even. Both in the unit of the characteristic.

    `step` is a power of two and `origin` a multiple of it.
    """

    origin: float
    step: float

    @classmethod
    def of(cls, nominal: float, sigma: float, lognormal: bool, lsl: float | None, usl: float | None) -> Grid:
        """The grid of a characteristic with this nominal, spread and limits (None: no limit on that side).

        The step is one unit in the last place of a float32 as large as nominal, limits or eight sigma, so what is around
        them loses nothing (of 0.5, where all are zero). The sigma of a `lognormal` is that of the logarithm and says nothing of size.
        """
        base = max(abs(nominal), abs(lsl or 0.0), abs(usl or 0.0), 0.0 if lognormal else 8 * sigma)
        if not math.isfinite(base):
            raise ValueError(
                f"a characteristic with nominal {nominal}, sigma {sigma}, limits {lsl} and {usl} has no grid: give finite numbers"
            )
        step = math.ldexp(1.0, max(math.frexp(base)[1] - _MANTISSA, _SMALLEST))
        return cls(origin=round(nominal / step) * step, step=step)
