"""The compile flags of every kernel, in one place. Importing this imports numba: do it late."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from numpy.typing import NDArray

Array = NDArray[Any]
F = TypeVar("F", bound=Callable[..., Any])

if TYPE_CHECKING:

    def kernel(function: F) -> F: ...

    def part(function: F) -> F: ...

else:
    import numba

    def kernel(function):
        """Compile without the GIL and keep the machine code on disk; no fastmath, so that a seed gives the same bytes everywhere."""
        return numba.njit(function, cache=True, nogil=True, error_model="numpy", _nrt=False)

    def part(function):
        """A piece of a kernel, inlined by LLVM: a real call would count references to every array it is given (measured: five times slower)."""
        return numba.njit(function, cache=True, nogil=True, error_model="numpy", _nrt=False, forceinline=True)
