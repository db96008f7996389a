"""The module's counters: what they count, and that they tell nothing of whom and with what."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import urllib.request
from pathlib import Path

import pytest

from secgear.errors import CryptoModuleError
from secgear.services.crypto.client import Caller
from secgear.services.crypto.metrics import exported
from secgear.services.crypto.pkcs11.constants import Mech
from secgear.services.crypto.pkcs11.mechanism import Mechanism
from secgear.services.crypto.pkcs11.rv import CryptokiError, Rv
from secgear.services.crypto.token.module import Module
from secgear.services.crypto.token.tally import BOUNDS, UNKNOWN, Tally
from tests.services.crypto.conftest import User, refusal
from tests.services.crypto.running import PIN, founded, prepare_token, secgear, serving


def scraped(url: str) -> dict[str, float]:
    """The counters, by name and labels without the enclave's."""
    text = urllib.request.urlopen(url, timeout=60).read().decode()
    found: dict[str, float] = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            name = re.sub(r'enclave="\d+",?', "", name).replace("{}", "").replace(",}", "}")
            found[name] = found.get(name, 0) + float(value)
    return found


def test_calls_are_counted_by_name_and_errors_by_return_value() -> None:
    tally = Tally()
    tally.add(3, Rv.OK, 0.00005)
    tally.add(3, Rv.ARGUMENTS_BAD, 0.5)
    tally.add(0, Rv.DEVICE_ERROR, 60.0)
    counts = tally.counts()
    assert counts.calls == {"C_GetInfo": 2, UNKNOWN: 1}
    assert counts.errors == {"CKR_ARGUMENTS_BAD": 1, "CKR_DEVICE_ERROR": 1}
    assert counts.seconds == pytest.approx(60.50005)
    assert counts.buckets[0] == counts.buckets[-1] == 1
    assert sum(counts.buckets) == 3
    assert len(counts.buckets) == len(BOUNDS) + 1


def test_threads_that_count_at_once_lose_nothing() -> None:
    tally = Tally()

    def count() -> None:
        for _ in range(2000):
            tally.add(3, Rv.OK, 0.0)

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert tally.counts().calls == {"C_GetInfo": 16000}


def test_every_call_of_a_client_is_counted(module: Module, caller: Caller) -> None:
    before = module.tally.counts()
    caller.call("C_GetInfo")
    assert refusal(caller.call, "C_GetSessionInfo", 999) is Rv.SESSION_HANDLE_INVALID
    after = module.tally.counts()
    assert after.calls["C_GetInfo"] == before.calls.get("C_GetInfo", 0) + 1
    assert after.calls["C_GetSessionInfo"] == before.calls.get("C_GetSessionInfo", 0) + 1
    key = "CKR_SESSION_HANDLE_INVALID"
    assert after.errors[key] == before.errors.get(key, 0) + 1
    assert sum(after.buckets) == sum(before.buckets) + 2


def test_the_server_tells_its_counters(tmp_path: Path) -> None:
    directory = tmp_path / "module"
    founded(directory)
    arguments = ("--workers", "1", "--metrics", "127.0.0.1:0")
    with serving(directory, *arguments, ready=2) as server:
        (url,) = (line.split()[-1] for line in server.said if "metrics at" in line)
        prepare_token(server.socket, directory / "pins")
        with server.caller() as caller:
            user = User(caller, login=False)
            user.call("C_Login", 1, PIN.encode())
            label = b"a label that is nobody's business"
            key = user.aes(TOKEN=True, LABEL=label)
            for _ in range(7):
                user.run("Encrypt", Mech.AES_ECB, key, bytes(16))
            with pytest.raises(CryptokiError):
                user.call("C_SignInit", Mechanism(Mech.ECDSA), key)
            found = scraped(url)
            assert found["secgear_crypto_enclaves"] == 1
            assert found["secgear_crypto_connections"] == 1
            assert found["secgear_crypto_sessions"] == 1
            assert found["secgear_crypto_objects"] == 1
            assert found['secgear_crypto_calls_total{call="C_Encrypt"}'] == 7
            assert found['secgear_crypto_errors_total{rv="CKR_KEY_TYPE_INCONSISTENT"}'] == 1
            total = found["secgear_crypto_call_seconds_count"]
            assert found['secgear_crypto_call_seconds_bucket{le="+Inf"}'] == total > 10
            text = urllib.request.urlopen(url, timeout=60).read()
            assert label not in text
            assert b"uid" not in text
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(url, timeout=60)


@pytest.mark.parametrize("address", ["9100", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:70000", ":1"])
def test_what_is_no_address_is_refused(address: str) -> None:
    refused = pytest.raises(CryptoModuleError, match="is no address")
    with refused, exported(None, address):  # type: ignore[arg-type]
        pass


def test_an_address_in_use_is_told(tmp_path: Path) -> None:
    directory = tmp_path / "module"
    founded(directory)
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        arguments = ("serve", "crypto", "--directory", str(directory), "--metrics", address)
        assert "in use" in secgear(*arguments, fails=True)
