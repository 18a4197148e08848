"""Records: the encrypted pieces of one direction of a connection.

A record is four bytes of big-endian length and an AES-256-GCM ciphertext of that length, tag
included. The length is authenticated too. Nonces count the records; every ``REKEY_INTERVAL`` records
the key is replaced by Noise's REKEY. So a record that is changed, lost, repeated or moved does not
open, and nothing after it does.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ..errors import RecordError
from .noise import KEY_BYTES, TAG_BYTES, nonce

Buffer = bytes | bytearray | memoryview

LENGTH_BYTES = 4
MAX_PLAINTEXT = 1 << 20
MAX_CIPHERTEXT = MAX_PLAINTEXT + TAG_BYTES
OVERHEAD = LENGTH_BYTES + TAG_BYTES
REKEY_INTERVAL = 1 << 16

_REKEY_NONCE = nonce(2**64 - 1)


class _Cipher:
    """A key with the counter of its nonces."""

    def __init__(self, key: bytes) -> None:
        self._aead = AESGCM(key)
        self._counter = 0

    def _next(self) -> tuple[AESGCM, bytes]:
        """Return the key and the nonce for the next record: together, because a rekey changes both."""
        if self._counter == REKEY_INTERVAL:
            new_key = self._aead.encrypt(_REKEY_NONCE, bytes(KEY_BYTES), None)[:KEY_BYTES]
            self._aead = AESGCM(new_key)
            self._counter = 0
        value = nonce(self._counter)
        self._counter += 1
        return self._aead, value


class Sealer(_Cipher):
    """Turns plaintext into records."""

    def seal_into(self, plaintext: Buffer, record: memoryview) -> int:
        """Write one record to the start of ``record`` and return its length in bytes.

        ``plaintext`` has at most ``MAX_PLAINTEXT`` bytes, ``record`` room for ``OVERHEAD`` more.
        """
        size = len(plaintext) + TAG_BYTES
        length = size.to_bytes(LENGTH_BYTES, "big")
        end = LENGTH_BYTES + size
        record[:LENGTH_BYTES] = length
        aead, value = self._next()
        aead.encrypt_into(value, plaintext, length, record[LENGTH_BYTES:end])
        return end


class Opener(_Cipher):
    """Turns records back into plaintext; the length of a record is read by its caller."""

    def open(self, ciphertext: Buffer) -> bytes:
        """Return the plaintext of one record, or raise ``RecordError``."""
        length = len(ciphertext).to_bytes(LENGTH_BYTES, "big")
        aead, value = self._next()
        try:
            return aead.decrypt(value, ciphertext, length)
        except InvalidTag as error:
            raise RecordError("a record does not authenticate") from error

    def open_into(self, ciphertext: Buffer, plaintext: memoryview) -> None:
        """Decrypt one record straight into ``plaintext``, which has just the right length."""
        length = len(ciphertext).to_bytes(LENGTH_BYTES, "big")
        aead, value = self._next()
        try:
            aead.decrypt_into(value, ciphertext, length, plaintext)
        except InvalidTag as error:
            raise RecordError("a record does not authenticate") from error


def ciphertext_length(length: Buffer) -> int:
    """Read a record's length field, or raise ``RecordError`` if no record is that long."""
    size = int.from_bytes(length, "big")
    if not TAG_BYTES <= size <= MAX_CIPHERTEXT:
        raise RecordError(
            f"a record claims {size} bytes; {TAG_BYTES} to {MAX_CIPHERTEXT} are allowed"
        )
    return size
