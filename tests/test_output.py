"""What workers print, on its way through their agent."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import parasnake
from parasnake import output
from parasnake.loop import Loop
from parasnake.output import (
    KEPT_BYTES,
    MAX_LINES,
    PIECE_BYTES,
    TEXT_BYTES,
    Outlet,
    Printed,
    last_lines,
)


class Plumbing:
    """A worker with two pipes, and an agent whose standard output and error are pipes as well."""

    def __init__(self) -> None:
        self.loop = Loop()
        (out, self.print_to), (err, self.complain_to) = os.pipe(), os.pipe()
        self.out, out_end = os.pipe()
        self.err, err_end = os.pipe()
        os.set_blocking(self.out, False)
        os.set_blocking(self.err, False)
        self.printed = Printed(
            self.loop, (Outlet(self.loop, out_end), Outlet(self.loop, err_end)), (out, err)
        )
        self.descriptors = {self.print_to, self.complain_to, self.out, self.err, out_end, err_end}
        self.out_end = out_end

    def look(self) -> None:
        """Let the loop do what can be done now."""
        for _ in range(3):
            self.loop.wait(self.loop.now())

    def fill(self) -> int:
        """Fill the agent's standard output, as if nobody read there; returns with how many bytes."""
        os.set_blocking(self.out_end, False)
        count = 0
        try:
            while True:
                count += os.write(self.out_end, b"." * PIECE_BYTES)
        except BlockingIOError:
            os.set_blocking(self.out_end, True)  # a write that would block now blocks the test
            return count

    def close(self, *descriptors: int) -> None:
        for descriptor in descriptors:
            self.descriptors.remove(descriptor)
            os.close(descriptor)

    def end(self) -> None:
        self.printed.close()
        self.loop.close()
        self.close(*self.descriptors)


@pytest.fixture
def plumbing() -> Iterator[Plumbing]:
    """Pipes whose ends are closed after the test."""
    made = Plumbing()
    yield made
    made.end()


def read(descriptor: int) -> bytes:
    """Read what is there."""
    data = b""
    try:
        while part := os.read(descriptor, 1 << 16):
            data += part
    except BlockingIOError:
        pass
    return data


class TestPassingOn:
    def test_each_stream_goes_to_its_own_at_once(self, plumbing: Plumbing) -> None:
        os.write(plumbing.print_to, b"no newline")
        os.write(plumbing.complain_to, b"a warning\n")
        plumbing.look()
        assert (read(plumbing.out), read(plumbing.err)) == (b"no newline", b"a warning\n")

    def test_the_end_is_noticed(self, plumbing: Plumbing) -> None:
        os.write(plumbing.print_to, b"bye")
        plumbing.close(plumbing.print_to)
        plumbing.look()
        assert read(plumbing.out) == b"bye"
        assert plumbing.printed.is_open, "standard error"
        plumbing.close(plumbing.complain_to)
        plumbing.look()
        assert not plumbing.printed.is_open

    def test_while_nobody_reads_nothing_waits_and_nothing_is_lost(self, plumbing: Plumbing) -> None:
        dots = plumbing.fill()
        os.write(plumbing.print_to, b"first\n")
        plumbing.look()
        os.write(plumbing.print_to, b"second\n")
        os.write(plumbing.complain_to, b"heard all the same")
        plumbing.look()
        assert read(plumbing.err) == b"heard all the same"
        assert plumbing.printed.unwritten
        assert read(plumbing.out) == b"." * dots
        plumbing.look()
        assert read(plumbing.out) == b"first\nsecond\n"
        assert not plumbing.printed.unwritten

    def test_what_a_dead_worker_left_is_read_also_then(self, plumbing: Plumbing) -> None:
        dots = plumbing.fill()
        text = b"".join(b"line %d\n" % number for number in range(5000))
        os.write(plumbing.print_to, text)
        plumbing.close(plumbing.print_to, plumbing.complain_to)
        assert plumbing.printed.last_lines().splitlines() == [
            f"line {number}" for number in range(5000 - MAX_LINES, 5000)
        ]
        assert read(plumbing.out) == b"." * dots
        while plumbing.printed.is_open:
            plumbing.look()
        assert read(plumbing.out) == text

    def test_what_a_dead_worker_has_started_may_go_on_printing(self, plumbing: Plumbing) -> None:
        os.write(plumbing.print_to, b"from the worker\n")
        assert plumbing.printed.last_lines() == "from the worker"
        os.write(plumbing.print_to, b"from its child\n")
        plumbing.look()
        assert read(plumbing.out) == b"from the worker\nfrom its child\n"

    def test_much_of_it_is_written_in_whole_lines(
        self, plumbing: Plumbing, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pieces: list[bytes] = []
        write = os.write

        def note(descriptor: int, data: bytes) -> int:
            if descriptor == plumbing.out_end:
                pieces.append(data)
            return write(descriptor, data)

        text = b"".join(b"line %d\n" % number for number in range(2000))
        write(plumbing.print_to, text)
        monkeypatch.setattr(os, "write", note)
        plumbing.look()
        assert b"".join(pieces) == text
        assert len(pieces) > 1
        assert all(piece.endswith(b"\n") and len(piece) <= PIECE_BYTES for piece in pieces)

    def test_a_line_may_be_longer_than_a_piece(self, plumbing: Plumbing) -> None:
        os.write(plumbing.print_to, b"x" * (2 * PIECE_BYTES + 1))
        plumbing.look()
        assert read(plumbing.out) == b"x" * (2 * PIECE_BYTES + 1)

    def test_what_nobody_will_ever_read_is_dropped(self, plumbing: Plumbing) -> None:
        plumbing.close(plumbing.out)
        os.write(plumbing.print_to, b"is anybody there?")
        plumbing.look()
        assert not plumbing.printed.unwritten
        plumbing.close(plumbing.print_to, plumbing.complain_to)
        plumbing.look()
        assert not plumbing.printed.is_open

    def test_a_stream_that_somebody_made_non_blocking(
        self, plumbing: Plumbing, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(descriptor: int, data: bytes) -> int:
            raise BlockingIOError

        os.write(plumbing.print_to, b"later")
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", refuse)
            plumbing.look()
        plumbing.look()
        assert read(plumbing.out) == b"later"

    def test_a_file_is_always_ready(self, tmp_path: Path) -> None:
        with Loop() as loop, (tmp_path / "log").open("wb") as log:
            source, print_to = os.pipe()
            other, complain_to = os.pipe()
            outlet = Outlet(loop, log.fileno())
            printed = Printed(loop, (outlet, outlet), (source, other))
            os.write(print_to, b"to a file\n")
            os.write(complain_to, b"and more")
            os.close(print_to)
            os.close(complain_to)
            while printed.is_open:
                loop.wait(loop.now())
        assert (tmp_path / "log").read_bytes() == b"to a file\nand more"

    def test_a_worker_whose_output_is_not_ours(self) -> None:
        with Loop() as loop:
            printed = Printed(loop, output.outlets_of(loop), None)
            assert (printed.last_lines(), printed.is_open) == ("", False)


class TestLastLines:
    def test_both_streams_in_the_order_of_their_arrival(self, plumbing: Plumbing) -> None:
        for descriptor, text in (
            (plumbing.print_to, b"step 1, no newline"),
            (plumbing.complain_to, b"Warning\n"),
            (plumbing.print_to, b"step 2\n"),
        ):
            os.write(descriptor, text)
            plumbing.look()
        assert plumbing.printed.last_lines() == "step 1, no newline\nWarning\nstep 2"

    def test_no_more_is_kept_than_is_needed(self) -> None:
        tail = output.Tail()
        for _ in range(100):
            tail.add(b"x" * KEPT_BYTES, None)
        assert len(tail._data) <= 2 * KEPT_BYTES

    @pytest.mark.parametrize(
        ("printed", "text"),
        [
            (b"", ""),
            (b"\n\n  \nend\n\n", "end"),
            (b"\r 10 %\r 20 %\r", " 20 %"),
            (b"\x1b[1;31mred\x1b[0m \x1b]0;title\x07and\tnot", "red and not"),
            (b"bell \x07 and \xff and \xe2\x80\xae", "bell \\x07 and \ufffd and \\u202e"),
            ("naïve".encode(), "naïve"),
            (b"y" * 1000, "y" * 300 + " ..."),
        ],
    )
    def test_they_can_be_printed_anywhere(self, printed: bytes, text: str) -> None:
        assert last_lines(printed) == text

    def test_they_are_few(self) -> None:
        text = last_lines("\n".join("\u20ac" * 250 + str(n) for n in range(50)).encode())
        assert len(text.encode()) <= TEXT_BYTES
        assert text.endswith("49")

    def test_a_crash_is_shown_from_its_beginning_without_frames_of_the_library(self) -> None:
        own = Path(parasnake.__file__).parent / "worker.py"
        frames = [f'  File "/home/me/script.py", line {n} in recurse' for n in range(100)]
        lines = [
            *("one", "two", "three", "four", "five", "six"),
            "Fatal Python error: Segmentation fault",
            "",
            "Current thread 0x00 (most recent call first):",
            f'  File "{own}", line 10 in run',
            *frames,
        ]
        shown = last_lines("\n".join(lines).encode()).splitlines()
        assert shown[:6] == ["two", "three", "four", "five", "six", lines[6]]
        assert shown[7:] == frames[: MAX_LINES - 7]

    def test_of_a_long_crash_the_beginning_counts(self) -> None:
        lines = ["Fatal Python error: Aborted", *["x" * 299] * 30]
        text = last_lines("\n".join(lines).encode())
        assert text.startswith("Fatal Python error: Aborted\nx")
        assert len(text) <= TEXT_BYTES
