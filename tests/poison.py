"""Messages that no machine should send, by what is wrong with them: (topic, payload)."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.pipeline import AT_MS, GRD, WND

GOLDEN = Path(__file__).resolve().parent / "golden" / "invalid"
LINE = "umh/v1/cbak/nanjing/cells/32140-1"
POISON_BOOT = 9  # apart from the boot of the good neighbours

Message = tuple[str, bytes]

_SOUND = {
    "boot": POISON_BOOT, "seq": 1, "timestamp_ms": AT_MS, "unit": "NJ1-26K22-0000001", "attempt": 1, "result": "pass", "cycle_s": 7.0,
    "meas": {"electrode_tension": 12.0},
}  # fmt: skip
SOUND = json.dumps(_SOUND, separators=(",", ":")).encode()


def with_text(**members: str) -> bytes:
    """A sound event with the text of members changed or added as it stands, JSON or not."""
    texts = {name: json.dumps(value) for name, value in _SOUND.items()} | members
    return ("{" + ",".join(f'"{name}":{text}' for name, text in texts.items()) + "}").encode()


_NUMBERS = [
    "-1", "-0.5", "1.5", "1e2", "1E400", "-1e400", "1e-400", "9223372036854775807", "9223372036854775808", "18446744073709551616",
    "1" + "0" * 3000, "0x10", "01", "+1", "1.", ".5", "1_000", "NaN", "nan", "Infinity", "-Infinity",
    '"17"', "true", "null", "[]", "{}", "",
]  # fmt: skip
_TIMES = ["-62135596800000", "0", "946684799999", "253402300799000", "4102444800000", "1789000000", '"2026-11-22T02:00:00"', "-1"]
_STRINGS = [
    r'"\u0000"', r'"NJ1\u0000-1"', '"\0"', '"' + "u" * 65 + '"', '""', r'"\ud800"', r'"\udfff\ud800"', r'"\x41"', '"\n"', "'NJ1'", "12345",
    '["NJ1"]', '"NJ1',
]  # fmt: skip

PAYLOADS: dict[str, bytes] = {
    **{f"{name} {text[:24]!r}": with_text(**{name: text}) for name in ("boot", "seq", "attempt") for text in _NUMBERS},
    **{
        f"cycle_s {text[:24]!r}": with_text(cycle_s=text)
        for text in _NUMBERS
        if text not in ("1.5", "1e2", "1e-400", "9223372036854775807")
    }
    | {f"reading {text[:24]!r}": with_text(meas=f'{{"electrode_tension":{text}}}') for text in ("NaN", "1e400", '"12"', "null", "{}")},
    **{f"timestamp {text!r}": with_text(timestamp_ms=text) for text in _TIMES},
    **{f"unit {text[:24]!r}": with_text(unit=text) for text in _STRINGS},
    **{f"lots {text!r}": with_text(lots=text) for text in (r'{"cathode":"\u0000"}', r'{"\u0000":"R1"}', "[]", '{"cathode":{}}')},
    "duplicate key": SOUND[:-1] + b',"boot":9}',
    "duplicate key, escaped": SOUND[:-1] + rb',"\u0062oot":9}',
    "duplicate key, both escaped": with_text().replace(b'"boot":9', rb'"\u0062oot":9,"bo\u006ft":9'),
    "duplicate key in meas": with_text(meas='{"electrode_tension":1,"electrode_tension":1}'),
    "duplicate key in meas, escaped": with_text(meas=r'{"electrode_tension":1,"electrode\u005ftension":1}'),
    "duplicate key in lots, escaped": with_text(lots=r'{"cathode":"R1","c\u0061thode":"R2"}'),
    "unknown member": with_text(operator='"Li"'),
    "unknown reading": with_text(meas='{"weld_resistance":1}'),
    "unknown defect": with_text(result='"scrap"', defect='"X99"'),
    "empty": b"",
    "blank": b" \t\r\n",
    "NUL": b"\0",
    "byte order mark": b"\xef\xbb\xbf" + SOUND,
    "UTF-16": SOUND.decode().encode("utf-16"),
    "UTF-16 without mark": SOUND.decode().encode("utf-16-le"),
    "UTF-32": SOUND.decode().encode("utf-32"),
    "truncated UTF-8": with_text(unit='"@"').replace(b"@", b"NJ\xe8\x8a"),
    "overlong UTF-8": with_text(unit='"@"').replace(b"@", b"\xc0\xaf"),
    "surrogate in UTF-8": with_text(unit='"@"').replace(b"@", b"\xed\xa0\x80"),
    "Latin-1": with_text(unit='"@"').replace(b"@", "Zürich".encode("latin-1")),
    "trailing garbage": SOUND + b"x",
    "trailing comma": SOUND[:-1] + b",}",
    "two documents": SOUND + SOUND,
    "two documents, a line each": SOUND + b"\n" + SOUND,
    "truncated": SOUND[:-1],
    "comment": SOUND + b" // good",
    "depth 30,000": b"[" * 30_000 + b"]" * 30_000,
    "depth 60,000, open": b"[" * 60_000,
    "depth 10,000 of objects": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    "depth 100,000": b"[" * 100_000,
    "depth 1,900 in a member": with_text(meas="[" * 1900 + "]" * 1900),
    "array in an array": b"[[" + SOUND + b"]]",
    "array of 257": b"[" + b",".join([SOUND.replace(b'{"electrode_tension":12.0}', b"{}")] * 257) + b"]",
    "array of numbers": b"[1,2,3]",
    "array, open": b"[" + SOUND + b",",
    "4 KiB + 1": SOUND + b" " * (4097 - len(SOUND)),
    "64 KiB": SOUND + b" " * (65536 - len(SOUND)),
    "64 KiB + 1": b"[" + SOUND + b" " * (65535 - len(SOUND)) + b"]",
    "almost 1 MiB": b"[" + SOUND + b" " * ((1 << 20) - 1000) + b"]",
    "almost 1 MiB of quotes": b'"' * ((1 << 20) - 1000),
    "60 KB of escapes": b'"' + b"\\" * 60_000,
    "60 KB of NUL": bytes(60_000),
    "protobuf": bytes.fromhex("0811109893011a114e4a312d32364b32322d30303031323334"),
    "gzip": bytes.fromhex("1f8b08000000000000ff"),
    "XML": b"<?xml version='1.0'?><!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>",
    "SQL": b"'); DROP TABLE mes.cell_event; --",
}

_LEVELS = [
    "\U0001f50b",
    "0.1",
    "",
    "\ufeff01",
    "*",
    "$SYS",
    "\u202e10",
    "0'1\"",
    "0\\1",
    "%s%d",
    "99",
    "1",
    "WND",
    "z" * 41,
    "z" * 60_000,
]
TOPICS = [
    *(f"{LINE}/wnd/{level}/_cell_v1/completed" for level in _LEVELS),
    f"{LINE}/xyz/01/_cell_v1/completed",
    f"{LINE}/WND/01/_cell_v1/completed",
    f"{LINE}///_cell_v1/completed",
    f"{LINE}/01/wnd/_cell_v1/completed",
]
"""Topics that reach a line's session through either broker, and name none of its machines. Mosquitto refuses control
characters; NATS refuses blanks, and acknowledges a level ">" that no persistent session ever gets."""


def by_hand() -> list[Message]:
    """All of the above and the golden payloads; a sound event on each wrong topic, and on the topic of another station."""
    messages = [(WND, payload) for payload in PAYLOADS.values()]
    messages += [(WND, path.read_bytes()) for path in sorted(GOLDEN.iterdir())]
    messages += [(topic, SOUND) for topic in TOPICS]
    messages.append((GRD, SOUND))  # winding's reading at the grading station
    return messages


def at_random(n: int) -> list[Message]:
    """Damaged events, the same ones each time; some are sound all the same."""
    found: list[Message] = []
    damage = st.lists(st.tuples(st.integers(0, len(SOUND)), st.integers(0, 3), st.binary(max_size=3)), min_size=1, max_size=3)

    @settings(max_examples=n, derandomize=True, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(damage, st.booleans())
    def draw(places: list[tuple[int, int, bytes]], in_array: bool) -> None:
        payload = SOUND
        for at, length, other in places:
            payload = payload[:at] + other + payload[at + length :]
        found.append((WND, b"[" + payload + b"]" if in_array else payload))

    draw()
    return found
