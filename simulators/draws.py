"""Random numbers without a state: each is a hash of who asks for what.

A number depends on the seed, the station's code, the unit, the attempt and the purpose, and on nothing else.
So neither another station nor the order of the events can shift it. The hash is splitmix64's finaliser
(Steele, Lea, Flood: Fast splittable pseudorandom number generators, OOPSLA 2014), applied twice.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from simulators.jit import fixed, part

MASK: Final = (1 << 64) - 1

# Purposes. A reading takes two numbers for each characteristic, from READING on.
MISS: Final = fixed(1)
REWORK: Final = fixed(2)
SERVICE: Final = fixed(3)
TIME_TO_FAILURE: Final = fixed(4)
REPAIR: Final = fixed(5)
READING: Final = fixed(16)

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_M1 = np.uint64(0xBF58476D1CE4E5B9)
_M2 = np.uint64(0x94D049BB133111EB)
_S30 = np.uint64(30)
_S27 = np.uint64(27)
_S31 = np.uint64(31)
_S11 = np.uint64(11)
_S32 = np.uint64(32)
_S6 = np.uint64(6)
_LOW = np.uint64(0xFFFFFFFF)
_UNIT = 2.0**-53
_HALF = 2.0**-32


def key_of(seed: int, code: str) -> int:
    """The stream of a station: a 64-bit hash of the seed and its code (FNV-1a, then mixed)."""
    value = 0xCBF29CE484222325
    for byte in f"{seed}/{code}".encode():
        value = ((value ^ byte) * 0x100000001B3) & MASK
    value = ((value ^ (value >> 30)) * int(_M1)) & MASK
    value = ((value ^ (value >> 27)) * int(_M2)) & MASK
    return value ^ (value >> 31)


@part
def _mix(z: Any) -> Any:
    z = (z ^ (z >> _S30)) * _M1
    z = (z ^ (z >> _S27)) * _M2
    return z ^ (z >> _S31)


@part
def bits(key: Any, unit: int, attempt: int, purpose: int) -> Any:
    """64 random bits for this question."""
    z = _mix(key + np.uint64(unit) * _GOLDEN)
    return _mix(z + (((np.uint64(attempt) << _S6) | np.uint64(purpose)) * _GOLDEN))


@part
def uniform(key: Any, unit: int, attempt: int, purpose: int) -> float:
    """A number in [0, 1), on the grid of 2^-53."""
    return np.float64(bits(key, unit, attempt, purpose) >> _S11) * _UNIT


@part
def triangle(key: Any, unit: int, attempt: int, purpose: int) -> float:
    """A symmetric triangular number in (-1, 1) with standard deviation 1/sqrt(6), from one hash."""
    z = bits(key, unit, attempt, purpose)
    return np.float64(z >> _S32) * _HALF + np.float64(z & _LOW) * _HALF - 1.0


@part
def exponential(key: Any, unit: int, attempt: int, purpose: int, mean: float) -> float:
    """An exponential number with this mean."""
    return -math.log(1.0 - uniform(key, unit, attempt, purpose)) * mean


@part
def normal_quantile(p: float) -> float:
    """The standard normal quantile of p in (0, 1), relative error below 1.2e-9.

    Rational approximations in three regions (P. J. Acklam, 2003). Only the tails need a logarithm.
    """
    if p < 0.02425 or p > 0.97575:
        q = math.sqrt(-2.0 * math.log(min(p, 1.0 - p)))
        top = -7.784894002430293e-03 * q - 3.223964580411365e-01
        top = (((top * q - 2.400758277161838) * q - 2.549732539343734) * q + 4.374664141464968) * q + 2.938163982698783
        bottom = 7.784695709041462e-03 * q + 3.224671290700398e-01
        bottom = ((bottom * q + 2.445134137142996) * q + 3.754408661907416) * q + 1.0
        return top / bottom if p < 0.5 else -top / bottom
    q = p - 0.5
    r = q * q
    top = -3.969683028665376e01 * r + 2.209460984245205e02
    top = (((top * r - 2.759285104469687e02) * r + 1.383577518672690e02) * r - 3.066479806614716e01) * r + 2.506628277459239
    bottom = -5.447609879822406e01 * r + 1.615858368580409e02
    bottom = (((bottom * r - 1.556989798598866e02) * r + 6.680131188771972e01) * r - 1.328068155288572e01) * r + 1.0
    return top * q / bottom
