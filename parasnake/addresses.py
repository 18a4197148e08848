"""Where a server is, as people write it: ``host``, ``host:3100``, ``fe80::1``, ``[fe80::1]:3100``."""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple


class Place(NamedTuple):
    """A host and a port.

    Attributes
    ----------
    host: an address, IPv4 or IPv6, or a host name
    port: 0 if it goes without saying
    """

    host: str
    port: int

    def __str__(self) -> str:
        if not self.port:
            return self.host
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def check_host(text: object) -> str:
    """Return an address or host name, without the brackets that it has in a URL.

    Raises
    ------
    TypeError, ValueError: it is neither
    """
    if not isinstance(text, str):
        raise TypeError
    host = text[1:-1] if re.fullmatch(r"\[.*:.*]", text) else text
    if ":" in host:
        ipaddress.IPv6Address(host)
    elif host.rpartition(".")[2].isdigit():  # no host name ends so: RFC 3696, section 2
        ipaddress.IPv4Address(host)
    elif not re.fullmatch(r"\w[\w.-]*", host):
        raise ValueError
    else:
        host.encode("idna")  # as socket.getaddrinfo() will: labels too long, or empty
    return host


def parse_place(text: object) -> Place:
    """Read a place, with or without its port.

    Raises
    ------
    TypeError, ValueError: it is none
    """
    if not isinstance(text, str):
        raise TypeError
    with_port = re.fullmatch(r"(\[.*]|[^:]*):([0-9]{1,5})", text)
    if with_port is None:
        return Place(check_host(text), 0)
    port = int(with_port[2])
    if not 0 < port < 1 << 16:
        raise ValueError
    return Place(check_host(with_port[1]), port)


def parse_places(text: object) -> list[Place]:
    """Read places with commas between them; raises as `parse_place`."""
    if not isinstance(text, str):
        raise TypeError
    return [parse_place(each.strip()) for each in text.split(",")]
