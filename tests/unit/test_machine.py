"""The reference machine, through everything that can happen to it: whatever it has written down is offered until it is marked."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mes.contract import MAX_BACKLOG, MAX_MESSAGE_BYTES, Committed
from mes.errors import ConfigError
from simulators import journal as journals
from simulators.journal import Journal, JournalFull
from simulators.machine import Machine

TOPIC = "umh/v1/cbak/hill/cells/a-1/wnd/01/_cell_v1/completed"
AHEAD = 40


def lines(boot: int, first: int, n: int, size: int = 0) -> bytes:
    """Events as a machine writes them down, as far as a journal looks at them."""
    return b"".join(b'{"boot":%d,"seq":%d,"pad":"%s"}\n' % (boot, seq, b"x" * (size or seq % 50)) for seq in range(first, first + n))


def events(payload: bytes) -> list[tuple[int, int]]:
    found = json.loads(payload)
    return [(e["boot"], e["seq"]) for e in (found if isinstance(found, list) else [found])]


class Life(RuleBasedStateMachine):
    """A machine, a broker that may lose what it has taken, and a backend that marks what it has, in the order of its mind."""

    @initialize(segment=st.sampled_from([200, 1000, 1 << 20]))
    def begin(self, segment: int) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.old = journals._SEGMENT_BYTES
        journals._SEGMENT_BYTES = segment  # type: ignore[misc]
        self.now = 0.0
        self.written: dict[int, int] = {}  # events by boot
        self.stored: set[tuple[int, int]] = set()
        self.at_the_broker: list[list[tuple[int, int]]] = []
        self.marks = [Committed(0, 0)]
        self.start(None)

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            journals._SEGMENT_BYTES = self.old  # type: ignore[misc]
            shutil.rmtree(self.folder, ignore_errors=True)

    def start(self, boot: int | None) -> None:
        self.machine = Machine(TOPIC, Journal(self.folder, boot, "never"), ahead=AHEAD, jitter=lambda: 1.0)
        self.machine.connected(self.now)

    @property
    def boot(self) -> int:
        return self.machine.journal.boot

    @rule(n=st.integers(1, 60), backlog=st.booleans())
    def work(self, n: int, backlog: bool) -> None:
        first = self.written.get(self.boot, 0) + 1
        assert self.machine.append(lines(self.boot, first, n), first, n, backlog) == n
        assert self.machine.append(lines(self.boot, first, n), first, n) == 0  # written down already
        self.written[self.boot] = first + n - 1

    @rule(times=st.integers(1, 8))
    def publish(self, times: int) -> None:
        for _ in range(times):
            publication = self.machine.publication(self.now)
            if publication is None:
                return
            assert len(publication.payload) <= self.machine.most_bytes <= MAX_MESSAGE_BYTES
            assert publication.n <= MAX_BACKLOG
            sent = events(publication.payload)
            assert sent == [(publication.boot, seq) for seq in range(publication.first, publication.first + publication.n)]
            # a boot goes out only when all boots before it are stored, so that its mark speaks for them
            for boot, n in self.written.items():
                if boot < publication.boot:
                    assert {(boot, seq) for seq in range(1, n + 1)} <= self.stored
            assert sent[-1][1] - self.prefix(publication.boot) <= AHEAD or publication.boot not in self.written
            self.at_the_broker.append(sent)

    def prefix(self, boot: int) -> int:
        """What the machine knows to be committed, at most."""
        return max((mark.seq for mark in self.marks if mark.boot == boot), default=0)

    @rule(which=st.randoms())
    def store(self, which: random.Random) -> None:
        which.shuffle(self.at_the_broker)
        while self.at_the_broker and which.random() < 0.9:
            message = self.at_the_broker.pop()
            self.stored.update(message if which.random() < 0.7 else which.sample(message, which.randint(0, len(message))))
        highest = max((boot for boot, _ in self.stored), default=0)
        seq = next(n for n in itertools.count(1) if (highest, n) not in self.stored) - 1
        if highest:
            self.marks.append(Committed(highest, seq))

    @rule(data=st.data())
    def hear(self, data: st.DataObject) -> None:
        """A mark, mostly the newest, sometimes an old one."""
        mark = data.draw(st.sampled_from([self.marks[-1], *self.marks]))
        before = self.machine.uncommitted
        assert before - self.machine.heard(mark, self.now) == self.machine.uncommitted

    @rule(most_bytes=st.sampled_from([90, 200, 1000, MAX_MESSAGE_BYTES]))
    def reach_a_broker_that_takes(self, most_bytes: int) -> None:
        """Each event fits, how many more depends."""
        self.machine.most_bytes = most_bytes

    @rule()
    def lose(self) -> None:
        self.at_the_broker.clear()

    @rule()
    def reconnect(self) -> None:
        self.machine.connected(self.now)

    @rule()
    def refuse(self) -> None:
        self.at_the_broker.clear()
        self.machine.refused(self.now)

    @rule(seconds=st.floats(0.1, 200))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.machine.journal.sync()

    @rule(restart=st.booleans(), torn=st.booleans())
    def crash(self, restart: bool, torn: bool) -> None:
        """kill -9, in the middle of a write perhaps; a machine that starts again has a new boot, a gateway keeps it."""
        segments = sorted(self.folder.glob("*.ndjson"))
        if torn and segments:
            with segments[-1].open("ab") as file:
                file.write(b'{"torn":1,"se')
        self.start(None if restart else self.boot)

    @invariant()
    @precondition(lambda self: hasattr(self, "machine"))
    def nothing_that_may_be_needed_is_trimmed(self) -> None:
        kept = {
            (event["boot"], event["seq"])
            for path in self.folder.glob("*.ndjson")
            for event in map(json.loads, path.read_bytes().split(b'{"torn"')[0].splitlines())
            if "seq" in event
        }
        missing = {(boot, seq) for boot, n in self.written.items() for seq in range(1, n + 1)} - kept
        assert missing <= self.stored
        assert len(kept) <= sum(self.written.values())

    @rule()
    def heal(self) -> None:
        """Once nothing is lost any more, everything that was ever written down gets there, and the machine knows it."""
        for _ in range(2000):
            if not self.machine.uncommitted:
                break
            self.now += 1.0
            while publication := self.machine.publication(self.now):
                self.stored.update(events(publication.payload))
            highest = max(boot for boot, _ in self.stored) if self.stored else 0
            seq = next(n for n in itertools.count(1) if (highest, n) not in self.stored) - 1
            self.marks.append(Committed(highest, seq))
            self.machine.heard(self.marks[-1], self.now)
        assert self.machine.uncommitted == 0
        assert self.stored >= {(boot, seq) for boot, n in self.written.items() for seq in range(1, n + 1)}


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def machine(folder: Path, n: int = 0, **options: object) -> Machine:
    made = Machine(TOPIC, Journal(folder, 1, "never"), jitter=lambda: 1.0, **options)  # type: ignore[arg-type]
    if n:
        made.append(lines(1, 1, n), 1, n)
    return made


def sent(made: Machine, now: float) -> list[tuple[int, int]]:
    """(first, n) of all messages there are to send."""
    return [(p.first, p.n) for p in iter(lambda: made.publication(now), None)]


def test_what_comes_is_sent_as_objects_and_a_backlog_as_arrays(tmp_path: Path) -> None:
    live = machine(tmp_path / "live", 3)
    payloads = [p.payload for p in iter(lambda: live.publication(0.0), None)]
    assert payloads == lines(1, 1, 3).splitlines()
    late = machine(tmp_path / "late")
    late.append(lines(1, 1, 300), 1, 300, backlog=True)
    assert sent(late, 0.0) == [(1, 256), (257, 44)]
    late.append(lines(1, 301, 1), 301, 1)
    assert late.publication(0.0).payload == lines(1, 301, 1)[:-1]  # type: ignore[union-attr] # drained: objects again
    large = machine(tmp_path / "large")
    large.append(lines(1, 1, 40, size=4000), 1, 40, backlog=True)
    assert [len(p.payload) <= MAX_MESSAGE_BYTES and p.n for p in iter(lambda: large.publication(0.0), None)] == [16, 16, 8]


def test_it_sends_again_after_a_while_and_waits_longer_each_time(tmp_path: Path) -> None:
    made = machine(tmp_path, 5, stall=10.0, longest=30.0)
    assert sent(made, 100.0) == [(1, 1), (2, 1), (3, 1), (4, 1), (5, 1)]
    now, waits = 100.0, []
    for _ in range(4):
        last = now
        while not (again := sent(made, now)):
            now += 0.5
        assert again == [(1, 5)]
        waits.append(now - last)
    assert waits == [10.5, 20.5, 30.5, 30.5]
    assert made.sent_again == 20
    assert made.heard(Committed(1, 3), now) == 3
    last = now
    while not (again := sent(made, now)):
        now += 0.5
    assert (again, now - last) == ([(4, 2)], 10.5)


def test_what_is_refused_waits_also_over_reconnects(tmp_path: Path) -> None:
    made = machine(tmp_path, 3, stall=10.0, longest=30.0)
    now, waits = 100.0, []
    for _ in range(4):
        assert sum(n for _, n in sent(made, now)) == 3
        for _ in range(3):
            made.refused(now)
        last = now
        made.connected(now)  # some brokers hang up on who is refused
        while made.publication(now) is None:
            now += 0.5
        made.connected(now)
        waits.append(now - last)
    assert waits == [10.0, 20.0, 30.0, 30.0]


def test_messages_are_as_long_as_the_broker_takes_and_no_longer(tmp_path: Path) -> None:
    made = machine(tmp_path / "a")
    made.append(lines(1, 10, 40, size=100), 10, 40, backlog=True)
    one = len(lines(1, 10, 1, size=100)) - 1
    made.most_bytes = 3 * one + 4  # brackets and commas
    assert [p.n for p in iter(lambda: made.publication(0.0), None)][:3] == [3, 3, 3]
    made.connected(1.0)
    made.most_bytes = 3 * one + 3
    assert [p.n for p in iter(lambda: made.publication(1.0), None)][:3] == [2, 2, 2]
    made.connected(2.0)
    made.most_bytes = one
    assert [p.payload for p in iter(lambda: made.publication(2.0), None)] == lines(1, 10, 40, size=100).splitlines()  # objects
    assert made.too_long is None


def test_an_event_that_is_longer_than_the_broker_takes_waits_and_is_named(tmp_path: Path) -> None:
    made = machine(tmp_path)
    made.append(lines(1, 1, 2, size=100) + lines(1, 3, 1, size=5000) + lines(1, 4, 1, size=100), 1, 4)
    made.most_bytes = 4000
    assert sent(made, 0.0) == [(1, 1), (2, 1)]
    assert made.too_long is not None
    assert (made.too_long.first, made.too_long.n, len(made.too_long.payload) > 5000) == (3, 1, True)
    assert made.heard(Committed(1, 2), 1.0) == 2
    assert sent(made, 500.0) == []
    made.most_bytes = 6000  # another broker
    assert sent(made, 501.0) == [(3, 1), (4, 1)]
    assert made.too_long is None


def test_how_long_a_mark_has_stood_still_counts_over_reconnects_and_from_the_first_message(tmp_path: Path) -> None:
    made = machine(tmp_path, 3)
    assert made.waits_since is None
    sent(made, 100.0)
    for now in (105.0, 110.0):
        made.connected(now)
        sent(made, now)
    assert made.waits_since == 100.0
    made.heard(Committed(1, 1), 120.0)
    assert made.waits_since == 120.0
    made.heard(Committed(1, 1), 130.0)
    assert made.waits_since == 120.0
    made.refused(140.0)  # that is not taken, and said by itself
    assert made.waits_since is None
    sent(made, 200.0)
    assert made.waits_since == 200.0
    made.heard(Committed(1, 3), 210.0)
    assert made.waits_since is None


def test_a_mark_of_another_boot_or_an_old_one_says_nothing(tmp_path: Path) -> None:
    made = machine(tmp_path, 10)
    assert made.heard(Committed(2, 10), 0.0) == 0
    assert made.heard(Committed(0, 10), 0.0) == 0
    assert made.heard(Committed(1, 0), 0.0) == 0
    assert made.heard(Committed(1, 4), 0.0) == 4
    assert made.heard(Committed(1, 3), 0.0) == 0
    assert made.uncommitted == 6
    assert made.heard(Committed(1, 99), 0.0) == 6  # the backend knows more than the journal: all that is there is committed
    assert made.uncommitted == 0


def test_a_mark_beyond_the_journal_is_noticed(tmp_path: Path) -> None:
    made = machine(tmp_path, 10)
    assert not made.is_outrun_by(Committed(1, 10))
    assert not made.is_outrun_by(Committed(0, 99))
    assert made.is_outrun_by(Committed(1, 11))
    assert made.is_outrun_by(Committed(2, 0))
    assert machine(tmp_path / "new").is_outrun_by(Committed(1, 1))


def test_a_new_boot_waits_for_the_end_of_the_old_one(tmp_path: Path) -> None:
    machine(tmp_path, 10)
    again = Machine(TOPIC, Journal(tmp_path, fsync="never"), jitter=lambda: 1.0)
    again.append(lines(2, 1, 5), 1, 5)
    again.connected(0.0)
    assert sent(again, 0.0) == [(1, 10)]
    assert again.heard(Committed(1, 9), 1.0) == 9
    assert sent(again, 1.0) == []
    assert again.heard(Committed(1, 10), 2.0) == 1
    assert [(p.boot, p.first) for p in iter(lambda: again.publication(2.0), None)] == [(2, n) for n in range(1, 6)]


class Full:
    """A disk that takes only so many bytes more."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
        self.room = room
        self.write: Callable[[int, bytes], int] = os.write
        monkeypatch.setattr(journals, "_write_some", self.take)

    def take(self, file: object, data: memoryview) -> int:
        n = min(self.room, len(data))
        self.room -= n
        if n == 0:
            raise OSError(28, "No space left on device")
        return file.write(data[:n])  # type: ignore[attr-defined, no-any-return]


def test_a_full_disk_takes_all_or_nothing_and_goes_on_when_there_is_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = machine(tmp_path, 10)
    disk = Full(monkeypatch, 45)
    with pytest.raises(JournalFull, match=rf"journal {tmp_path}: No space left on device: the machine waits until there is room"):
        made.append(lines(1, 11, 5), 11, 5)
    assert made.uncommitted == 10
    assert Journal(tmp_path, 1).span(1) == (1, 11)
    disk.room = 1 << 20
    assert made.append(lines(1, 11, 5), 11, 5) == 5
    made.connected(0.0)
    assert sent(made, 0.0) == [(1, 15)]


def test_a_disk_that_is_full_at_the_first_event_of_a_boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Full(monkeypatch, 0)
    made = machine(tmp_path)
    with pytest.raises(JournalFull):
        made.append(lines(1, 1, 5), 1, 5)
    disk.room = 1 << 20
    assert made.append(lines(1, 1, 5), 1, 5) == 5
    assert Journal(tmp_path).boot == 2


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: path.rename(path.with_name("notes.ndjson")), "is no segment of a journal: move it away"),
        (lambda path: path.write_bytes(path.read_bytes() + b"?\n"), "its last line is no event"),
        (lambda path: path.write_bytes(path.read_bytes().replace(lines(1, 3, 1), b"")), "lines are missing"),
    ],
)
def test_a_damaged_journal_is_named(tmp_path: Path, damage: Callable[[Path], object], words: str) -> None:
    machine(tmp_path, 5)
    damage(next(tmp_path.glob("*.ndjson")))
    with pytest.raises(ConfigError, match=words):
        Journal(tmp_path)


def test_a_gap_between_state_and_journal_is_refused(tmp_path: Path) -> None:
    made = machine(tmp_path, 5)
    with pytest.raises(ConfigError, match="event 8 follows 5"):
        made.append(lines(1, 8, 1), 8, 1)
    with pytest.raises(ConfigError, match="knows boot 1, so 0 is over"):
        Journal(tmp_path, 0)


def test_boot_and_seq_are_known_when_all_is_committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journals, "_SEGMENT_BYTES", 100)
    made = machine(tmp_path, 1)
    for seq in range(2, 50):
        made.append(lines(1, seq, 1), seq, 1)
    assert len(list(tmp_path.glob("*.ndjson"))) > 10
    assert made.heard(Committed(1, 49), 0.0) == 49
    made.journal.sync()
    assert len(list(tmp_path.glob("*.ndjson"))) == 1
    assert Journal(tmp_path).boot == 2
    assert Journal(tmp_path, 1).following == 50
    assert machine(tmp_path).uncommitted == 0


def test_what_a_crash_left_half_written_is_cut_off(tmp_path: Path) -> None:
    machine(tmp_path, 5)
    with next(tmp_path.glob("*.ndjson")).open("ab") as file:
        file.write(b"x" * 1000)
    made = machine(tmp_path)
    assert next(tmp_path.glob("*.ndjson")).read_bytes() == lines(1, 1, 5)
    assert made.append(lines(1, 6, 1), 6, 1) == 1
    made = machine(tmp_path)
    made.connected(0.0)
    assert sent(made, 0.0) == [(1, 6)]


def test_an_unreadable_mark_costs_nothing_but_sending_again(tmp_path: Path) -> None:
    made = machine(tmp_path, 5)
    made.heard(Committed(1, 4), 0.0)
    made.journal.sync()
    assert machine(tmp_path).uncommitted == 1
    (tmp_path / "mark").write_bytes(msgspec.json.encode(["?"]))
    assert machine(tmp_path).uncommitted == 5
