"""Under which addresses others reach a server."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from types import SimpleNamespace

import ifaddr
import psutil  # type: ignore[import-untyped]  # its types are not installed
import pytest
from callees import needs_ipv6

from parasnake import interfaces, net

Reach = Callable[[str | None], list[str]]


@pytest.fixture
def reach() -> Iterator[Reach]:
    """What ``reachable_at`` says of a server that was started with this ``--bind``."""
    with ExitStack() as stack:

        def reach(bind: str | None) -> list[str]:
            listeners = [stack.enter_context(sock) for sock in net.listen(bind, 0)]
            return interfaces.reachable_at(listeners, "myhost")

        yield reach


def adapter(name: str, *ips: str) -> SimpleNamespace:
    """As ``ifaddr`` tells of an interface."""
    pairs = [(ip, 0, 0) if ":" in ip else ip for ip in ips]
    return SimpleNamespace(nice_name=name, ips=[SimpleNamespace(ip=pair) for pair in pairs])


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interfaces of a login node, and which of them leads out."""
    adapters = [
        adapter("lo", "127.0.0.1", "::1"),
        adapter("docker0", "172.17.0.1", "fe80::1"),
        adapter("ib0", "10.1.0.1", "fd01::1"),
        adapter("eth0", "10.0.0.1", "2001:db8::7", "fe80::2"),
    ]
    way_out = {socket.AF_INET: "10.0.0.1", socket.AF_INET6: "2001:db8::7"}
    monkeypatch.setattr(ifaddr, "get_adapters", lambda: adapters)
    monkeypatch.setattr(interfaces, "_on_the_way_out", lambda family: way_out[family])


@needs_ipv6
@pytest.mark.usefixtures("cluster")
def test_what_leads_out_comes_first_and_loopback_last(reach: Reach) -> None:
    everything = [
        *("10.0.0.1", "2001:db8::7", "10.1.0.1", "fd01::1"),
        "myhost",
        *("172.17.0.1", "127.0.0.1", "::1"),
    ]
    assert reach(None) == everything
    assert reach("::") == everything


@pytest.mark.usefixtures("cluster")
def test_all_interfaces_of_ipv4_only(reach: Reach) -> None:
    assert reach("0.0.0.0") == ["10.0.0.1", "10.1.0.1", "myhost", "172.17.0.1", "127.0.0.1"]


@needs_ipv6
@pytest.mark.usefixtures("cluster")
def test_a_socket_that_serves_ipv6_alone() -> None:
    with socket.create_server(("::", 0), family=socket.AF_INET6) as sock:
        assert interfaces.reachable_at([sock], "") == ["2001:db8::7", "fd01::1", "::1"]


@pytest.mark.usefixtures("cluster")
def test_a_server_on_one_address_is_there_and_nowhere_else(reach: Reach) -> None:
    assert reach("127.0.0.1") == ["127.0.0.1"]
    assert reach("127.0.0.2") == ["127.0.0.2"]


def test_the_real_addresses_of_this_machine(reach: Reach) -> None:
    """All of them but those that hold on one link only, whatever another library says they are."""
    found = set(reach("0.0.0.0")) - {"myhost"}
    known = {
        each.address
        for addresses in psutil.net_if_addrs().values()
        for each in addresses
        if each.family == socket.AF_INET
    }
    assert found == known
    assert all(ipaddress.ip_address(address).version == 4 for address in found)


def test_a_machine_without_a_way_out(monkeypatch: pytest.MonkeyPatch, reach: Reach) -> None:
    monkeypatch.setattr(ifaddr, "get_adapters", lambda: [adapter("lo", "127.0.0.1")])
    monkeypatch.setitem(interfaces._FAR_AWAY, socket.AF_INET, "127.0.0.1")
    assert reach("0.0.0.0") == ["myhost", "127.0.0.1"]
    monkeypatch.setitem(interfaces._FAR_AWAY, socket.AF_INET, "no address")
    assert reach("0.0.0.0") == ["myhost", "127.0.0.1"]
