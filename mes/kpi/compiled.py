"""How kernels are compiled, and what all of them have in common.

A kernel calls only kernels of its own file: numba's cache sees that the file has changed, not what was imported into it.
Compiled code reaches numba's disk cache only at module level; an index out of bounds returns garbage in silence.
"""

from __future__ import annotations

from typing import Any

COMPILED: dict[str, Any] = {"cache": True, "nogil": True}
