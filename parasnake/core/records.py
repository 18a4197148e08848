"""Records: the encrypted pieces of one direction of a connection.

A record is four bytes of big-endian length and an AES-256-GCM ciphertext of that length, tag
included. The length is authenticated too. Nonces count the records; every ``REKEY_INTERVAL`` records
the key is replaced by Noise's REKEY. So a record that is changed, lost, repeated or moved does not
open, and nothing after it does.
"""

from __future__ import annotations

from struct import Struct

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
_LENGTH = Struct(">I")


class _Cipher:
    """A key with the counter of its nonces."""

    def __init__(self, key: bytes) -> None:
        self._aead = AESGCM(key)
        self._counter = 0

    def _next(self) -> bytes:
        """Return the nonce for the next record; to be called before its key is used."""
        counter = self._counter
        if counter == REKEY_INTERVAL:
            new_key = self._aead.encrypt(_REKEY_NONCE, bytes(KEY_BYTES), None)[:KEY_BYTES]
            self._aead = AESGCM(new_key)
            counter = 0
        self._counter = counter + 1
        return nonce(counter)


class Sealer(_Cipher):
    """Turns plaintext into records, of at most ``MAX_PLAINTEXT`` bytes each."""

    def seal(self, plaintext: Buffer) -> bytes:
        """Return one record."""
        length = _LENGTH.pack(len(plaintext) + TAG_BYTES)
        value = self._next()
        return length + self._aead.encrypt(value, plaintext, length)

    def seal_into(self, plaintext: Buffer, record: memoryview) -> int:
        """Write one record to the start of ``record`` and return its length in bytes.

        It has room for ``OVERHEAD`` bytes more than ``plaintext`` has.
        """
        size = len(plaintext) + TAG_BYTES
        length = _LENGTH.pack(size)
        end = LENGTH_BYTES + size
        record[:LENGTH_BYTES] = length
        value = self._next()
        self._aead.encrypt_into(value, plaintext, length, record[LENGTH_BYTES:end])
        return end


class Opener(_Cipher):
    """Turns records back into plaintext; the length of a record is read by its caller."""

    def open(self, ciphertext: Buffer) -> bytes:
        """Return the plaintext of one record, or raise ``RecordError``."""
        length = _LENGTH.pack(len(ciphertext))
        value = self._next()
        try:
            return self._aead.decrypt(value, ciphertext, length)
        except InvalidTag as error:
            raise RecordError("a record does not authenticate") from error

    def open_into(self, ciphertext: Buffer, plaintext: memoryview) -> None:
        """Decrypt one record straight into ``plaintext``, which has just the right length."""
        length = _LENGTH.pack(len(ciphertext))
        value = self._next()
        try:
            self._aead.decrypt_into(value, ciphertext, length, plaintext)
        except InvalidTag as error:
            raise RecordError("a record does not authenticate") from error


def ciphertext_length(data: Buffer, start: int = 0) -> int:
    """Read the length field that begins there, or raise ``RecordError`` if no record is that long."""
    size: int = _LENGTH.unpack_from(data, start)[0]
    if not TAG_BYTES <= size <= MAX_CIPHERTEXT:
        raise RecordError(
            f"a record claims {size} bytes; {TAG_BYTES} to {MAX_CIPHERTEXT} are allowed"
        )
    return size
