"""Records: what is sealed on one side opens on the other, in order, whole, and only once."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from parasnake.core import records
from parasnake.core.noise import TAG_BYTES, nonce
from parasnake.core.records import (
    LENGTH_BYTES,
    MAX_CIPHERTEXT,
    MAX_PLAINTEXT,
    OVERHEAD,
    REKEY_INTERVAL,
    Opener,
    Sealer,
    ciphertext_length,
)
from parasnake.errors import RecordError

KEY = bytes(range(32))


def seal(sealer: Sealer, plaintext: bytes) -> bytes:
    """Return one record: its length and its ciphertext."""
    record = bytearray(len(plaintext) + OVERHEAD)
    assert sealer.seal_into(plaintext, memoryview(record)) == len(record)
    return bytes(record)


def unseal(opener: Opener, record: bytes) -> bytes:
    assert ciphertext_length(record[:LENGTH_BYTES]) == len(record) - LENGTH_BYTES
    return opener.open(record[LENGTH_BYTES:])


@given(st.lists(st.binary(max_size=200), max_size=20))
def test_what_is_sealed_opens_in_order(plaintexts: list[bytes]) -> None:
    sealer, opener = Sealer(KEY), Opener(KEY)
    assert [unseal(opener, seal(sealer, text)) for text in plaintexts] == plaintexts


def test_a_record_opens_straight_into_the_memory_where_it_belongs() -> None:
    record = seal(Sealer(KEY), b"hello")
    memory = bytearray(b"-------")
    Opener(KEY).open_into(record[LENGTH_BYTES:], memoryview(memory)[1:6])
    assert memory == b"-hello-"


def test_a_record_is_written_to_the_start_of_a_larger_buffer() -> None:
    buffer = bytearray(100)
    end = Sealer(KEY).seal_into(b"hello", memoryview(buffer))
    assert end == len(b"hello") + OVERHEAD
    assert unseal(Opener(KEY), bytes(buffer[:end])) == b"hello"
    assert not any(buffer[end:])


def test_the_largest_record_is_as_large_as_is_said() -> None:
    record = seal(Sealer(KEY), bytes(MAX_PLAINTEXT))
    assert len(record) == LENGTH_BYTES + MAX_CIPHERTEXT
    assert len(unseal(Opener(KEY), record)) == MAX_PLAINTEXT


def test_the_nonces_are_those_of_noise() -> None:
    sealer = Sealer(KEY)
    for counter in range(3):
        record = seal(sealer, b"text")
        length = record[:LENGTH_BYTES]
        assert AESGCM(KEY).encrypt(nonce(counter), b"text", length) == record[LENGTH_BYTES:]


# ---- changed, lost, repeated, moved


@pytest.mark.parametrize("position", range(len(b"hello") + TAG_BYTES))
def test_no_byte_of_a_record_can_be_changed(position: int) -> None:
    ciphertext = bytearray(seal(Sealer(KEY), b"hello")[LENGTH_BYTES:])
    ciphertext[position] ^= 0x80
    with pytest.raises(RecordError, match="does not authenticate"):
        Opener(KEY).open(ciphertext)
    with pytest.raises(RecordError, match="does not authenticate"):
        Opener(KEY).open_into(ciphertext, memoryview(bytearray(5)))


@pytest.mark.parametrize("difference", [-1, 1])
def test_the_length_is_authenticated(difference: int) -> None:
    key = AESGCM(KEY)
    wrong = (5 + TAG_BYTES + difference).to_bytes(LENGTH_BYTES, "big")
    with pytest.raises(RecordError):
        Opener(KEY).open(key.encrypt(nonce(0), b"hello", wrong))


def test_a_record_opens_only_in_its_place() -> None:
    sealer = Sealer(KEY)
    first, second = seal(sealer, b"first"), seal(sealer, b"second")

    lost = Opener(KEY)
    with pytest.raises(RecordError):
        unseal(lost, second)

    repeated = Opener(KEY)
    unseal(repeated, first)
    with pytest.raises(RecordError):
        unseal(repeated, first)


def test_a_record_of_the_other_direction_does_not_open() -> None:
    with pytest.raises(RecordError):
        unseal(Opener(bytes(32)), seal(Sealer(KEY), b"hello"))


# ---- lengths


@pytest.mark.parametrize("length", [TAG_BYTES, TAG_BYTES + 1, MAX_CIPHERTEXT])
def test_possible_lengths(length: int) -> None:
    assert ciphertext_length(length.to_bytes(LENGTH_BYTES, "big")) == length


@pytest.mark.parametrize("length", [0, 1, TAG_BYTES - 1, MAX_CIPHERTEXT + 1, 2**31, 2**32 - 1])
def test_impossible_lengths(length: int) -> None:
    with pytest.raises(RecordError, match=f"claims {length} bytes; 16 to 1048592 are allowed"):
        ciphertext_length(length.to_bytes(LENGTH_BYTES, "big"))


# ---- rekeying


def rekeyed(key: bytes) -> bytes:
    """Noise, section 4.2: REKEY(k) is the first 32 bytes of ENCRYPT(k, 2^64 - 1, "", 32 zeros)."""
    return AESGCM(key).encrypt(b"\0\0\0\0" + b"\xff" * 8, bytes(32), b"")[:32]


def test_the_key_is_replaced_at_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "REKEY_INTERVAL", 3)
    sealer, key = Sealer(KEY), KEY
    for _ in range(4):
        for counter in range(3):
            record = seal(sealer, b"text")
            opened = AESGCM(key).decrypt(
                nonce(counter), record[LENGTH_BYTES:], record[:LENGTH_BYTES]
            )
            assert opened == b"text"
        key = rekeyed(key)


def test_both_sides_rekey_after_the_same_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "REKEY_INTERVAL", 4)
    sealer, opener = Sealer(KEY), Opener(KEY)
    texts = [str(number).encode() for number in range(30)]
    assert [unseal(opener, seal(sealer, text)) for text in texts] == texts


def test_a_real_interval_passes_and_no_nonce_is_used_twice_under_one_key() -> None:
    sealer, opener = Sealer(KEY), Opener(KEY)
    record = memoryview(bytearray(4 + OVERHEAD))
    for number in range(REKEY_INTERVAL):
        sealer.seal_into(number.to_bytes(4, "big"), record)
        assert opener.open(record[LENGTH_BYTES:]) == number.to_bytes(4, "big")

    fresh = Sealer(rekeyed(KEY))  # the new key counts from 0 again
    for text in (b"one more", b"and another"):
        after = seal(sealer, text)
        assert after == seal(fresh, text)
        assert unseal(opener, after) == text
