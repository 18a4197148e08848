"""The addresses of this machine: under which of them others can reach a listening socket."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Iterable, Iterator

_AddressIP = ipaddress.IPv4Address | ipaddress.IPv6Address

WITHIN = ("docker", "br-", "virbr", "vmnet", "vboxnet", "veth", "podman", "cni", "lxc", "lxdbr")
"""How the interfaces are called that a machine has for its own containers and virtual machines."""
_FAR_AWAY = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}
"""Addresses for documentation (RFC 5737, RFC 3849): the way there is the way to anybody."""


def reachable_at(listeners: Iterable[socket.socket], host_name: str = "") -> list[str]:
    """Return under which addresses and names others reach these listening sockets, best first.

    Of a socket that listens everywhere: the addresses on the way to other networks, those of all
    other interfaces, the host name (which others may not be able to look up), the networks that
    exist within this machine only, and last the loopback addresses. Those of IPv6 that hold on one
    link only (``fe80::``) are left out: they are called differently on each machine.

    Arguments
    ---------
    host_name: the name of this machine, or "" if none shall be in the list
    """
    found: list[str] = []
    everywhere = set[int]()
    for sock in listeners:
        address = str(sock.getsockname()[0])
        if ipaddress.ip_address(address).is_unspecified:
            everywhere |= _families(sock)
        else:
            found.append(address)
    if everywhere:
        near, within, loopback = _of_all_interfaces(everywhere)
        name = [host_name] if host_name else []
        found += [*near, *name, *within, *loopback]
    return list(dict.fromkeys(found))


def _families(sock: socket.socket) -> set[int]:
    """Whom a socket serves that listens on all addresses."""
    if sock.family != socket.AF_INET6:
        return {socket.AF_INET}
    if sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY):
        return {socket.AF_INET6}
    return {socket.AF_INET, socket.AF_INET6}


def _of_all_interfaces(families: set[int]) -> tuple[list[str], list[str], list[str]]:
    near = [first for family in sorted(families) if (first := _on_the_way_out(family))]
    within: list[str] = []
    loopback: list[str] = []
    versions = {4 if family == socket.AF_INET else 6 for family in families}
    for name, address in _interface_addresses():
        if address.version not in versions or (address.version == 6 and address.is_link_local):
            continue
        if address.is_loopback:
            loopback.append(str(address))
        elif name.startswith(WITHIN):
            within.append(str(address))
        else:
            near.append(str(address))
    return near, within, loopback


def _interface_addresses() -> Iterator[tuple[str, _AddressIP]]:
    import ifaddr  # only a server with an access file asks

    for adapter in ifaddr.get_adapters():
        for ip in adapter.ips:
            text = ip.ip if isinstance(ip.ip, str) else ip.ip[0]
            yield adapter.nice_name, ipaddress.ip_address(text)


def _on_the_way_out(family: int) -> str:
    """Return the address of this machine that others see; "" if there is no way out."""
    # Connecting a socket for datagrams sends nothing: it only chooses the interface.
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.connect((_FAR_AWAY[socket.AddressFamily(family)], 9))
        address = ipaddress.ip_address(sock.getsockname()[0])
        if not (address.is_loopback or address.is_link_local or address.is_unspecified):
            return str(address)
    return ""
