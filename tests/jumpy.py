"""`mes` with a wall clock that jumps by up to a week at every look: `python -m tests.jumpy ingest`."""

import random
import runpy
import time

_time, _time_ns = time.time, time.time_ns
_WEEK_S = 7 * 86_400

time.time = lambda: _time() + random.randint(-_WEEK_S, _WEEK_S)
time.time_ns = lambda: _time_ns() + random.randint(-_WEEK_S, _WEEK_S) * 1_000_000_000

runpy.run_module("mes", run_name="__main__", alter_sys=True)
