"""PSConfiguration: as 0.1 had it, with errors that say what would be right."""

from __future__ import annotations

import base64
import json
import math
from pathlib import Path
from typing import Any

import pytest

from parasnake.errors import ConfigurationError, LegacyConfigurationError
from parasnake.ps_config import PSConfiguration, key_bytes

KEY = "12345678901234567890123456789012"


def written(path: Path, settings: object) -> str:
    file = path / "settings.json"
    file.write_text(json.dumps(settings))
    file.chmod(0o600)
    return str(file)


def test_defaults() -> None:
    configuration = PSConfiguration(KEY)
    assert configuration.server_address == "127.0.0.1"
    assert configuration.server_port == 3100
    assert configuration.heartbeat_timeout == 300
    assert configuration.quit_counter == 10
    assert configuration.workers is None


def test_the_key_is_kept_in_base64url() -> None:
    configuration = PSConfiguration(KEY)
    assert configuration.secret_key == base64.urlsafe_b64encode(KEY.encode())
    assert key_bytes(configuration.secret_key) == KEY.encode()
    assert KEY not in repr(configuration)


def test_the_bytes_of_the_key_count() -> None:
    configuration = PSConfiguration("ü" * 16)
    assert key_bytes(configuration.secret_key) == "ü".encode() * 16


WRONG_KEYS: list[Any] = ["", KEY[1:], KEY + "x", "ü" * 32, KEY.encode(), None]


@pytest.mark.parametrize("key", WRONG_KEYS)
def test_wrong_keys(key: Any) -> None:
    for kind in (AssertionError, ConfigurationError):
        with pytest.raises(kind, match="exactly 32 bytes") as caught:
            PSConfiguration(key)
        assert KEY[1:] not in str(caught.value)


def test_all_can_be_assigned() -> None:
    configuration = PSConfiguration(KEY)
    configuration.server_address = "node.example"
    configuration.server_port = 4000
    configuration.heartbeat_timeout = 10
    configuration.quit_counter = 1
    configuration.workers = "auto"
    other = base64.urlsafe_b64encode(b"x" * 32)
    configuration.secret_key = other
    assert configuration.heartbeat_timeout == 10
    assert configuration.quit_counter == 1
    assert configuration.workers == "auto"
    assert configuration.secret_key == other


WRONG_VALUES = [
    *(("heartbeat_timeout", value) for value in (9, 9.0, 0, -1, math.nan, "300", True, None)),
    *(("quit_counter", value) for value in (0, -1, "1", None, True)),
    *(("workers", value) for value in (0, -1, 1.5, "all", True)),
]


@pytest.mark.parametrize(("name", "value"), WRONG_VALUES)
def test_wrong_values(tmp_path: Path, name: str, value: Any) -> None:
    configuration = PSConfiguration(KEY)
    before = getattr(configuration, name)
    with pytest.raises(AssertionError, match=name):
        setattr(configuration, name, value)
    assert getattr(configuration, name) == before
    with pytest.raises(LegacyConfigurationError, match=name):
        PSConfiguration.from_json(written(tmp_path, {"secret_key": KEY, name: value}))


@pytest.mark.parametrize("value", [b"x" * 32, b"", KEY, None, base64.b64encode(b"x" * 31)])
def test_wrong_encoded_keys(value: Any) -> None:
    with pytest.raises(AssertionError, match="base64url"):
        PSConfiguration(KEY).secret_key = value


def test_json_with_the_key_only(tmp_path: Path) -> None:
    configuration = PSConfiguration.from_json(written(tmp_path, {"secret_key": KEY}))
    assert vars(configuration) == vars(PSConfiguration(KEY))


def test_json_with_everything(tmp_path: Path) -> None:
    settings = {
        "secret_key": KEY,
        "server_address": "10.0.0.1",
        "server_port": 4321,
        "heartbeat_timeout": 60,
        "quit_counter": 3,
        "workers": 2,
        "something_else": [1, 2],
    }
    configuration = PSConfiguration.from_json(written(tmp_path, settings))
    assert configuration.server_address == "10.0.0.1"
    assert configuration.server_port == 4321
    assert configuration.heartbeat_timeout == 60
    assert configuration.quit_counter == 3
    assert configuration.workers == 2
    assert not hasattr(configuration, "something_else")


@pytest.mark.parametrize("settings", [{}, {"server_port": 3100}, [], "text"])
def test_json_without_a_key(tmp_path: Path, settings: object) -> None:
    with pytest.raises(AssertionError, match="no secret_key"):
        PSConfiguration.from_json(written(tmp_path, settings))


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        PSConfiguration.from_json(tmp_path / "missing.json")


def test_an_open_file_gets_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = Path(written(tmp_path, {"secret_key": KEY}))
    file.chmod(0o644)
    PSConfiguration.from_json(file)
    assert "chmod 600" in caplog.text
    assert KEY not in caplog.text
