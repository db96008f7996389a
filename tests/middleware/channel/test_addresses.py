"""Addresses: what is one, and what a socket leaves behind."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from secgear.middleware.channel.addresses import Address, parse


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("tcp://host.example:443", Address("tcp", "host.example", 443)),
        ("localhost:0", Address("tcp", "localhost", 0)),
        ("tcp://[::1]:65535", Address("tcp", "::1", 65535)),
        ("[fe80::1%eth0]:1", Address("tcp", "fe80::1%eth0", 1)),
        ("unix:/run/relay", Address("unix", path="/run/relay")),
        ("unix:///run/relay", Address("unix", path="/run/relay")),
        ("unix:@name", Address("unix", path="@name")),
        ("vsock://3:4294967295", Address("vsock", "3", 4294967295)),
    ],
)
def test_every_form_is_read_and_written(text: str, address: Address) -> None:
    assert parse(text) == address
    assert parse(str(address)) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "host",
        "host:",
        ":1",
        "tcp://host",
        "tcp://host:65536",
        "tcp://host:-1",
        "tcp://host:+1",
        "tcp://host:1/path",
        "tcp://user@host:1",
        "tcp://host:1?query",
        "http://host:1",
        "::1:80",
        "[host]:80",
        "ho st:1",
        "host:1\n",
        "host\0:1",
        "host:\u0661",
        "unix:",
        "unix:/a\0b",
        "vsock://host:1",
        "vsock://4294967296:1",
        "vsock://3:4294967296",
        "vsock://\u0663:1",
    ],
)
def test_what_is_none_is_refused_with_the_forms_there_are(text: str) -> None:
    with pytest.raises(ValueError, match=r"address|a port of"):
        parse(text)


@given(st.text() | st.from_regex(r"(tcp://|unix:|vsock://|)[^\s]{0,20}:[0-9]{0,12}"))
@example("tcp://" + "9" * 5000 + ":" + "9" * 5000)
def test_any_text_is_an_address_or_a_clear_error(text: str) -> None:
    try:
        address = parse(text)
    except ValueError:
        return
    assert parse(str(address)) == address


def test_file_that_a_dead_listener_left_is_replaced(tmp_path: Path) -> None:
    place = parse(f"unix:{tmp_path}/relay")
    place.listen().close()
    assert (tmp_path / "relay").is_socket()
    with place.listen(), place.connect(5):
        pass


def test_file_of_a_listener_that_lives_is_not_taken(tmp_path: Path) -> None:
    place = parse(f"unix:{tmp_path}/relay")
    with place.listen() as living:
        with pytest.raises(OSError, match="in use"):
            place.listen()
        place.tidy()
        with place.connect(5):
            living.accept()[0].close()  # the attempt above
            living.accept()[0].close()


def test_file_that_is_no_socket_is_kept(tmp_path: Path) -> None:
    kept = tmp_path / "relay"
    kept.write_text("somebody's")
    with pytest.raises(OSError, match="in use"):
        parse(f"unix:{kept}").listen()
    (tmp_path / "link").symlink_to(kept)
    parse(f"unix:{tmp_path}/link").tidy()
    assert kept.read_text() == "somebody's"
    assert (tmp_path / "link").is_symlink()


def test_vsock_takes_a_free_port() -> None:
    if not hasattr(socket, "AF_VSOCK"):
        pytest.skip("this Python has no vsock")
    try:
        listener = parse(f"vsock://{socket.VMADDR_CID_ANY}:0").listen()
    except OSError as error:
        pytest.skip(f"this kernel has no vsock: {error}")
    with listener:
        assert listener.getsockname()[1] > 0
