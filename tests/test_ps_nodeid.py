"""PSNodeId: equal by its id."""

from __future__ import annotations

import copy
import pickle
import uuid

import parasnake
from parasnake.ps_nodeid import PSNodeId


def test_it_is_a_random_uuid() -> None:
    first, second = PSNodeId(), PSNodeId()
    assert type(first.id) is uuid.UUID
    assert first.id.version == 4
    assert first != second


def test_equal_ids_make_equal_names() -> None:
    first, second = PSNodeId(), PSNodeId()
    second.id = first.id
    assert first == second
    assert hash(first) == hash(second)
    assert {first: "row 1"}[second] == "row 1"
    assert first != first.id


def test_copies_are_equal_and_apart() -> None:
    first = PSNodeId()
    for second in (copy.deepcopy(first), copy.copy(first), pickle.loads(pickle.dumps(first))):
        assert second == first
        second.id = uuid.uuid4()
        assert second != first


def test_of_an_id_of_the_library() -> None:
    node_id = parasnake.NodeId.from_random(bytes(range(16)))
    named = PSNodeId.of(node_id)
    assert named.id == node_id
    assert type(named.id) is uuid.UUID


def test_repr() -> None:
    named = PSNodeId()
    named.id = uuid.UUID("12345678-1234-4678-9234-567812345678")
    assert repr(named) == "PSNodeId(12345678-1234-4678-9234-567812345678)"


def test_the_names_are_exported() -> None:
    assert parasnake.PSNodeId is PSNodeId
    for name in ("PSConfiguration", "PSNode", "PSServer"):
        assert name in parasnake.__all__
