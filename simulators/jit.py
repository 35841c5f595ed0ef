"""The compile flags of every kernel, in one place. Importing this imports numba: do it late.

No fastmath, so that a seed gives the same bytes everywhere. No reference counts inside kernels (`_nrt=False`): they hold
no memory of their own, and counting took four fifths of the flow's time. All integers in records are int64, so that every
piece is compiled once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from numpy.typing import NDArray

Array = NDArray[Any]
F = TypeVar("F", bound=Callable[..., Any])

if TYPE_CHECKING:

    def kernel(function: F) -> F: ...

    def part(function: F) -> F: ...

    def fixed(value: int) -> int: ...

else:
    import hashlib
    from pathlib import Path

    import numba
    import numpy as np

    # numba notices a change in a kernel's own file, not in a file whose pieces it has inlined: the cache's name holds them all.
    _SOURCES = ("jit", "draws", "disturbance", "verdict", "service", "breakdown", "flow", "quality", "encode", "faults")
    _DIGEST = hashlib.sha256(b"".join(Path(__file__).with_name(f"{name}.py").read_bytes() for name in _SOURCES)).hexdigest()[:8]
    _FLAGS = {"nogil": True, "error_model": "numpy", "_nrt": False}

    def kernel(function):
        """Compile for callers in Python: without the GIL, machine code kept on disk."""
        function.__qualname__ += f"_{_DIGEST}"
        return numba.njit(function, cache=True, **_FLAGS)

    def part(function):
        """Compile a piece of a kernel, inlined by LLVM."""
        return numba.njit(function, forceinline=True, **_FLAGS)

    def fixed(value):
        """A constant for kernels: numba would compile a piece again for every plain integer it is called with."""
        return np.int64(value)
