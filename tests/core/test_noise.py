"""The handshake: what the public test vectors say, and what each attack gets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from parasnake.core.noise import (
    HANDSHAKE_BYTES,
    KEY_BYTES,
    PROLOGUE,
    PROTOCOL_NAME,
    Handshake,
    nonce,
)
from parasnake.errors import HandshakeError

VECTORS = json.loads((Path(__file__).parent / "vectors" / "noise-nnpsk0.json").read_text())

KEY = b"the secret key of these tests, 32"[:KEY_BYTES]
OTHER_KEY = bytes(KEY_BYTES)


def agent(psk: bytes = KEY, prologue: bytes = PROLOGUE) -> Handshake:
    ephemeral = b"A" * KEY_BYTES
    return Handshake(initiator=True, psk=psk, ephemeral=ephemeral, prologue=prologue)


def server(psk: bytes = KEY, prologue: bytes = PROLOGUE) -> Handshake:
    ephemeral = b"S" * KEY_BYTES
    return Handshake(initiator=False, psk=psk, ephemeral=ephemeral, prologue=prologue)


class Vector:
    """One entry of the file, as bytes."""

    def __init__(self, entry: dict[str, str]) -> None:
        self.name = entry["handshake"]
        self._entry = entry

    def __getitem__(self, field: str) -> bytes:
        return bytes.fromhex(self._entry.get(field, ""))

    def handshake(self, *, initiator: bool) -> Handshake:
        side = "init" if initiator else "resp"
        return Handshake(
            initiator=initiator,
            psk=self["preshared_key"],
            ephemeral=self[f"gen_{side}_ephemeral"],
            prologue=self["prologue"],
        )


@pytest.fixture(params=VECTORS["vectors"], ids=lambda entry: entry["msg_0_ciphertext"][64:72])
def vector(request: pytest.FixtureRequest) -> Vector:
    return Vector(request.param)


def test_the_vectors_are_of_this_protocol(vector: Vector) -> None:
    assert vector.name.encode() == PROTOCOL_NAME


def test_both_messages_are_those_of_the_vectors(vector: Vector) -> None:
    first, second = vector.handshake(initiator=True), vector.handshake(initiator=False)

    message = first.write(vector["msg_0_payload"])
    assert message == vector["msg_0_ciphertext"]
    assert second.read(message) == vector["msg_0_payload"]

    answer = second.write(vector["msg_1_payload"])
    assert answer == vector["msg_1_ciphertext"]
    assert first.read(answer) == vector["msg_1_payload"]


def test_the_first_transport_messages_are_those_of_the_vectors(vector: Vector) -> None:
    first, second = vector.handshake(initiator=True), vector.handshake(initiator=False)
    second.read(first.write(vector["msg_0_payload"]))
    first.read(second.write(vector["msg_1_payload"]))

    for keys, message in ((first.keys(), "msg_2"), (second.keys(), "msg_3")):
        plaintext, ciphertext = vector[f"{message}_payload"], vector[f"{message}_ciphertext"]
        assert AESGCM(keys.send).encrypt(nonce(0), plaintext, None) == ciphertext


def test_what_one_side_sends_with_the_other_receives_with() -> None:
    first, second = agent(), server()
    second.read(first.write())
    first.read(second.write())
    assert first.keys().send == second.keys().receive
    assert first.keys().receive == second.keys().send
    assert first.keys().send != first.keys().receive


def test_messages_with_empty_payloads_have_a_fixed_length() -> None:
    first, second = agent(), server()
    message = first.write()
    second.read(message)
    assert len(message) == len(second.write()) == HANDSHAKE_BYTES


def test_fresh_ephemeral_keys_give_fresh_transport_keys() -> None:
    keys = set()
    for ephemeral in (b"1" * KEY_BYTES, b"2" * KEY_BYTES):
        first, second = agent(), Handshake(initiator=False, psk=KEY, ephemeral=ephemeral)
        second.read(first.write())
        second.write()
        keys |= set(second.keys())
    assert len(keys) == 4


# ---- attacks


def test_a_server_does_not_open_the_message_of_another_key() -> None:
    with pytest.raises(HandshakeError, match="does not open with this key"):
        server().read(agent(psk=OTHER_KEY).write())


def test_an_agent_does_not_open_the_answer_of_another_key() -> None:
    first, stranger = agent(), server(psk=OTHER_KEY)
    first.write()
    stranger.read(agent(psk=OTHER_KEY).write())
    with pytest.raises(HandshakeError, match="does not open with this key"):
        first.read(stranger.write())


def test_both_sides_must_agree_on_the_prologue() -> None:
    with pytest.raises(HandshakeError):
        server(prologue=b"Parasnake 2").read(agent().write())


def test_an_agent_does_not_take_its_own_message_for_an_answer() -> None:
    first = agent()
    with pytest.raises(HandshakeError):
        first.read(first.write())


def test_a_server_does_not_take_its_own_answer_for_a_first_message() -> None:
    first, second = agent(), server()
    second.read(first.write())
    with pytest.raises(HandshakeError):
        server().read(second.write())


def test_an_answer_to_somebody_else_opens_nothing() -> None:
    first, second = agent(), server()
    other = Handshake(initiator=True, psk=KEY, ephemeral=b"O" * KEY_BYTES)
    second.read(other.write())
    first.write()
    with pytest.raises(HandshakeError):
        first.read(second.write())


@pytest.mark.parametrize("position", range(HANDSHAKE_BYTES))
def test_no_byte_of_either_message_can_be_changed(position: int) -> None:
    first, second = agent(), server()
    message = first.write()
    with pytest.raises(HandshakeError):
        server().read(flipped(message, position))
    second.read(message)
    with pytest.raises(HandshakeError):
        first.read(flipped(second.write(), position))


def flipped(message: bytes, position: int) -> bytes:
    changed = bytearray(message)
    changed[position] ^= 1
    return bytes(changed)


@pytest.mark.parametrize("length", [0, KEY_BYTES, HANDSHAKE_BYTES - 1])
def test_a_short_message_is_refused(length: int) -> None:
    message = agent().write()
    with pytest.raises(HandshakeError, match="too short"):
        server().read(message[:length])


SMALL_ORDER = [
    bytes(KEY_BYTES),
    bytes([1, *bytes(KEY_BYTES - 1)]),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    bytes.fromhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    bytes.fromhex("edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    bytes.fromhex("eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
]
"""All points of Curve25519 with which every private key makes the same secret: zero."""


@pytest.mark.parametrize("public", SMALL_ORDER, ids=lambda public: public.hex()[:8])
def test_a_public_key_of_small_order_is_refused(
    public: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only who holds the key can send one at all, but a secret of zeros is no secret."""
    first, second = agent(), server()
    monkeypatch.setattr(first, "_private", FakePrivateKey(public))
    second.read(first.write())
    with pytest.raises(HandshakeError, match="not usable"):
        second.write()


@pytest.mark.parametrize("public", SMALL_ORDER, ids=lambda public: public.hex()[:8])
def test_an_agent_refuses_it_before_it_looks_at_anything_else(public: bytes) -> None:
    first = agent()
    first.write()
    with pytest.raises(HandshakeError, match="not usable"):
        first.read(public + bytes(16))


class FakePrivateKey:
    """Claims a public key of which nobody has the private one."""

    def __init__(self, public: bytes) -> None:
        self._public = public

    def public_key(self) -> FakePrivateKey:
        return self

    def public_bytes_raw(self) -> bytes:
        return self._public
