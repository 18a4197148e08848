"""Where a server is, as people write it."""

from __future__ import annotations

import pytest

from parasnake.addresses import Place, check_host, parse_place, parse_places


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("login1", "login1", 0),
        ("login1:3100", "login1", 3100),
        ("10.0.0.1", "10.0.0.1", 0),
        ("10.0.0.1:80", "10.0.0.1", 80),
        ("::1", "::1", 0),
        ("[::1]", "::1", 0),
        ("[::1]:65535", "::1", 65535),
        ("fe80::1:3100", "fe80::1:3100", 0),
        ("[fe80::1%eth0]:1", "fe80::1%eth0", 1),
    ],
)
def test_a_place_is_read_and_written(text: str, host: str, port: int) -> None:
    place = parse_place(text)
    assert place == Place(host, port)
    assert parse_place(str(place)) == place


@pytest.mark.parametrize(
    "text",
    [
        *("", ":", ":80", "host:", "host:0", "host:65536", "host:+1", "host:٣", "host:80:"),
        *("[host]:80", "[]:80", "::1::", "http://host", "a b", "10.0.0.256:80", "a..b:1"),
    ],
)
def test_what_is_no_place(text: str) -> None:
    with pytest.raises(ValueError):  # who asks says what was wrong
        parse_place(text)


@pytest.mark.parametrize("thing", [None, 7, b"host", ["host"]])
def test_a_place_is_text(thing: object) -> None:
    for read in (parse_place, check_host):
        with pytest.raises(TypeError):
            read(thing)


def test_more_than_one_place() -> None:
    assert parse_places("a, b:7 ,::1") == [("a", 0), ("b", 7), ("::1", 0)]
    assert parse_places("a") == [("a", 0)]
