"""The Noise handshake ``Noise_NNpsk0_25519_AESGCM_SHA256``.

Two messages, and both sides have proven that they hold the pre-shared key, have forward secrecy and
share two fresh transport keys:

    -> psk, e
    <- e, ee

Source: The Noise Protocol Framework, revision 34, sections 4, 5 and 9. The primitives are those of
the ``cryptography`` package. Randomness is a parameter: the caller passes a fresh ephemeral key.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from hashlib import sha256
from struct import Struct
from typing import NamedTuple

# The first key would load this, in the middle of a handshake for which somebody waits.
import cryptography.hazmat.backends.openssl.backend  # noqa: F401
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ..errors import HandshakeError

PROTOCOL_NAME = b"Noise_NNpsk0_25519_AESGCM_SHA256"
PROLOGUE = b"Parasnake"
"""Authenticated with the handshake; it never changes, whatever the version of the messages."""

KEY_BYTES = 32
TAG_BYTES = 16
HANDSHAKE_BYTES = KEY_BYTES + TAG_BYTES
"""Length of each of the two handshake messages with an empty payload."""


class TransportKeys(NamedTuple):
    """What a finished handshake leaves: one key for each direction, 32 bytes each."""

    send: bytes
    receive: bytes


nonce: Callable[[int], bytes] = Struct(">4xQ").pack
"""Makes the 96-bit nonce for AES-GCM of a counter, as Noise has it."""


class Handshake:
    """One side of the handshake; each method may be called once and in the order of the messages.

    Parameters
    ----------
    initiator: true for the side that speaks first (the agent)
    psk: the secret key, 32 bytes
    ephemeral: 32 fresh random bytes, used for this handshake only
    prologue: bytes that both sides must agree on
    """

    def __init__(
        self, *, initiator: bool, psk: bytes, ephemeral: bytes, prologue: bytes = PROLOGUE
    ) -> None:
        self._initiator = initiator
        self._psk = psk
        self._private = X25519PrivateKey.from_private_bytes(ephemeral)
        self._remote: X25519PublicKey | None = None
        self._chaining_key = self._hash = PROTOCOL_NAME
        self._key = b""
        self._counter = 0
        self._mix_hash(prologue)

    def write(self, payload: bytes = b"") -> bytes:
        """Return this side's one message; ``payload`` travels inside it."""
        if self._initiator:
            self._mix_key_and_hash(self._psk)
        public = self._private.public_key().public_bytes_raw()
        self._mix_public(public)
        if not self._initiator:
            self._mix_shared_secret()
        return public + self._encrypt(payload)

    def read(self, message: bytes) -> bytes:
        """Take the other side's one message and return its payload.

        Raises ``HandshakeError`` when the other side holds another key, or the message was changed.
        """
        if len(message) < HANDSHAKE_BYTES:
            raise HandshakeError("the handshake message is too short")
        if not self._initiator:
            self._mix_key_and_hash(self._psk)
        public = bytes(message[:KEY_BYTES])
        self._remote = X25519PublicKey.from_public_bytes(public)
        self._mix_public(public)
        if self._initiator:
            self._mix_shared_secret()
        return self._decrypt(bytes(message[KEY_BYTES:]))

    def keys(self) -> TransportKeys:
        """Return the transport keys, once both messages have passed."""
        first, second = self._derive(b"", 2)
        return TransportKeys(first, second) if self._initiator else TransportKeys(second, first)

    def _mix_hash(self, data: bytes) -> None:
        self._hash = sha256(self._hash + data).digest()

    def _mix_key(self, material: bytes) -> None:
        self._chaining_key, self._key = self._derive(material, 2)
        self._counter = 0

    def _mix_key_and_hash(self, material: bytes) -> None:
        self._chaining_key, mixed, self._key = self._derive(material, 3)
        self._counter = 0
        self._mix_hash(mixed)

    def _mix_public(self, public: bytes) -> None:
        # With a psk the ephemeral key goes into the hash and into the key (section 9.2).
        self._mix_hash(public)
        self._mix_key(public)

    def _mix_shared_secret(self) -> None:
        assert self._remote is not None
        try:
            self._mix_key(self._private.exchange(self._remote))
        except ValueError as error:  # a point of small order: the secret would be zero
            raise HandshakeError("the peer's public key is not usable") from error

    def _derive(self, material: bytes, outputs: int) -> list[bytes]:
        secret = hmac.digest(self._chaining_key, material, "sha256")
        block, blocks = b"", []
        for index in range(1, outputs + 1):
            block = hmac.digest(secret, block + bytes([index]), "sha256")
            blocks.append(block)
        return blocks

    def _encrypt(self, payload: bytes) -> bytes:
        sealed = AESGCM(self._key).encrypt(nonce(self._counter), payload, self._hash)
        self._counter += 1
        self._mix_hash(sealed)
        return sealed

    def _decrypt(self, sealed: bytes) -> bytes:
        try:
            payload = AESGCM(self._key).decrypt(nonce(self._counter), sealed, self._hash)
        except InvalidTag as error:
            raise HandshakeError("the handshake message does not open with this key") from error
        self._counter += 1
        self._mix_hash(sealed)
        return payload
