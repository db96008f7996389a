"""One connection, many threads: each gets its own answer, and nobody waits for another's call."""

from __future__ import annotations

import hashlib
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from ctypes import byref
from pathlib import Path

import pytest

from secgear.services.crypto.pkcs11.calls import BY_NAME
from secgear.services.crypto.pkcs11.constants import KeyType, Mech, ObjectClass
from secgear.services.crypto.pkcs11.rv import Rv
from secgear.services.crypto.rpc.buffer import OWN
from secgear.services.crypto.rpc.messages import build_answer
from tests.adversary.crypto_host import PIN
from tests.services.crypto.library.answering import Answering, Peer, answering, called, lying
from tests.services.crypto.library.cryptoki import (
    InitializeArgs,
    Library,
    Mechanism,
    Session,
    buffer_of,
)
from tests.services.crypto.library.programs import run

SECONDS = 60


def test_answers_go_to_who_asked_whatever_order_they_come_in(library: Library, short: Path) -> None:
    """The first call is answered last of all."""
    waiting: list[tuple[int, bytes]] = []
    together = threading.Barrier(8)

    def backwards(peer: Peer, number: int, body: bytes) -> None:
        waiting.append((number, body))
        if len(waiting) == 8:
            for number, body in reversed(waiting):
                size = int.from_bytes(body[-8:], "big") & 0xFFFFFFFF
                data = bytes([size]) * size
                peer.reply(number, build_answer(called(body), (data,), OWN))

    def ask(size: int) -> bytes:
        buffer = buffer_of(size)
        together.wait(SECONDS)
        library.call("C_GenerateRandom", 1, buffer, size)
        return bytes(buffer)

    with answering(short / "backwards", lying(backwards)) as server:
        library.initialise(server.address)
        with ThreadPoolExecutor(8) as pool:
            sizes = [10, 11, 12, 13, 14, 15, 16, 17]
            assert list(pool.map(ask, sizes)) == [bytes([size]) * size for size in sizes]


def test_a_long_call_keeps_nobody_waiting(library: Library, short: Path) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow(peer: Peer, number: int, body: bytes) -> None:
        call = called(body)

        def reply() -> None:
            if call.name == "C_GenerateKey":
                begun.set()
                assert go_on.wait(SECONDS)
                peer.reply(number, build_answer(call, (7,), OWN))
            else:
                peer.reply(number, build_answer(call, (b"quickly",), OWN))

        threading.Thread(target=reply, daemon=True).start()

    with answering(short / "slow", lying(slow)) as server:
        library.initialise(server.address)
        with ThreadPoolExecutor(1) as pool:
            mechanism = byref(Mechanism(Mech.AES_KEY_GEN))
            long = pool.submit(library.number, "C_GenerateKey", 1, mechanism, None, 0)
            assert begun.wait(SECONDS)
            for _ in range(100):
                buffer = buffer_of(7)
                library.call("C_GenerateRandom", 2, buffer, 7)
                assert bytes(buffer) == b"quickly"
            assert not long.done()
            go_on.set()
            assert long.result(SECONDS) == 7


def test_threads_with_their_own_sessions_do_not_mix(ready: Library, session: Session) -> None:
    key = session.create(
        CLASS=ObjectClass.SECRET_KEY, KEY_TYPE=KeyType.GENERIC_SECRET, VALUE=b"of all threads..",
        SIGN=True,
    )  # fmt: skip

    def work(number: int) -> int:
        own = Session(ready)
        done = 0
        for round_ in range(20):
            data = hashlib.shake_128(b"%d %d" % (number, round_)).digest(round_ * 700)
            own.call("C_DigestInit", byref(Mechanism(Mech.SHA256)))
            assert own.sized("C_Digest", data, len(data)) == hashlib.sha256(data).digest()
            assert len(own.run("Sign", Mech.SHA256_HMAC, key, data)) == 32
            done += 1
        own.call("C_CloseSession")
        return done

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(8))) == [20] * 8


def test_a_large_request_and_large_answers_pass_each_other(ready: Library) -> None:
    """Both directions are full at times; who sends must not keep others from reading."""

    def work(number: int) -> None:
        own = Session(ready)
        for _ in range(4):
            if number % 2:
                buffer = buffer_of(1 << 20)
                own.call("C_GenerateRandom", buffer, 1 << 20)
            else:
                own.call("C_DigestInit", byref(Mechanism(Mech.SHA256)))
                own.sized("C_Digest", bytes(1 << 20), 1 << 20)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))


def test_finalize_ends_the_calls_of_other_threads(library: Library, short: Path) -> None:
    """Though the module answers nobody any more, that call included."""
    begun = threading.Event()

    def never(peer: Peer) -> None:
        peer.greet()
        number, body = peer.frame()
        peer.reply(number, build_answer(called(body), (), OWN))
        while peer.frame():
            begun.set()

    with answering(short / "never", never) as server:
        library.initialise(server.address)
        with ThreadPoolExecutor(1) as pool:
            call = pool.submit(library.rv, "C_GenerateRandom", 1, buffer_of(7), 7)
            assert begun.wait(SECONDS)
            library.call("C_Finalize", None)
            assert call.result(SECONDS) == Rv.CRYPTOKI_NOT_INITIALIZED
        assert library.rv("C_GenerateRandom", 1, buffer_of(7), 7) == Rv.CRYPTOKI_NOT_INITIALIZED
        library.initialise(server.address)


def test_finalize_does_not_wait_for_a_module_that_hangs(library: Library, short: Path) -> None:
    gone = threading.Event()

    def hanging(peer: Peer) -> None:
        peer.greet()
        number, body = peer.frame()
        peer.reply(number, build_answer(called(body), (), OWN))
        assert gone.wait(SECONDS)

    with answering(short / "hanging", hanging) as server:
        library.initialise(server.address)
        with ThreadPoolExecutor(1) as pool:
            finalized = pool.submit(library.rv, "C_Finalize", None)
            try:
                assert finalized.result(SECONDS / 2) == Rv.OK
            finally:
                gone.set()
        assert library.rv("C_GetInfo", buffer_of(256)) == Rv.CRYPTOKI_NOT_INITIALIZED


def test_a_thread_that_is_cancelled_keeps_no_lock(
    built: Path, tmp_path: Path, short: Path, server: Answering
) -> None:
    """The thread's own function is the library's: nothing of Python is cancelled."""
    run(built, tmp_path, server, f"""
        import socket
        silent = socket.socket(socket.AF_UNIX)
        silent.bind("{short}/silent")
        silent.listen(1)
        os.environ["SECGEAR_PKCS11"] = "unix:{short}/silent"
        system, library = CDLL(None), CDLL(str(path))
        for name in ("C_Initialize", "SDF_OpenDevice"):
            thread, device = c_ulong(), c_void_p()
            given = byref(device) if name.startswith("SDF") else None
            system.pthread_create(byref(thread), None, getattr(library, name), given)
            connection, _ = silent.accept()
            system.pthread_cancel(thread)
            connection.close()
            system.pthread_join(thread, None)
        Library(path).initialise(address)
        assert library.SDF_OpenDevice(byref(device)) == 0
    """)  # fmt: skip


def test_one_of_many_that_initialise_at_once_does(library: Library, server: Answering) -> None:
    args = InitializeArgs(flags=2, reserved=server.address.encode())
    with ThreadPoolExecutor(8) as pool:
        results = sorted(pool.map(lambda _: library.rv("C_Initialize", byref(args)), range(8)))
    assert results == [Rv.OK, *[Rv.CRYPTOKI_ALREADY_INITIALIZED] * 7]
    assert server.connections == 1


@pytest.mark.parametrize("when", ["before the call", "during the call"])
def test_a_server_that_goes_away_is_a_device_that_was_removed(
    library: Library, short: Path, when: str
) -> None:
    def leave(peer: Peer, number: int, body: bytes) -> None:
        raise EOFError

    with answering(short / "leaves", lying(leave)) as server:
        library.initialise(server.address)
        if when == "before the call":
            server.drop()
        for _ in range(3):
            assert library.rv("C_GenerateRandom", 1, buffer_of(7), 7) == Rv.DEVICE_REMOVED
        library.call("C_Finalize", None)


def test_a_server_that_comes_back_is_found_by_the_next_initialize(
    library: Library, server: Answering
) -> None:
    library.initialise(server.address)
    before = Session(library)
    server.drop()
    assert before.rv("C_GenerateRandom", buffer_of(7), 7) == Rv.DEVICE_REMOVED
    library.call("C_Finalize", None)
    library.initialise(server.address)
    assert Session(library, pin=PIN).rv("C_GenerateRandom", buffer_of(7), 7) == Rv.OK
    assert server.connections == 2


def test_signals_neither_end_a_call_nor_are_sent_by_one(library: Library, short: Path) -> None:
    """SIGALRM during the wait for an answer; SIGPIPE, which would end the process, for a write."""
    asked, main = threading.Event(), threading.get_ident()

    def late(peer: Peer, number: int, body: bytes) -> None:
        if called(body).name == "C_GetInfo":
            raise EOFError
        for _ in range(20):
            signal.pthread_kill(main, signal.SIGALRM)
        asked.set()
        peer.reply(number, build_answer(BY_NAME["C_GenerateRandom"], (b"too late",), OWN))

    heard = []
    before = signal.signal(signal.SIGALRM, lambda *_: heard.append(1))
    pipe = signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        with answering(short / "late", lying(late)) as server:
            library.initialise(server.address)
            buffer = buffer_of(8)
            assert library.rv("C_GenerateRandom", 1, buffer, 8) == Rv.OK
            assert bytes(buffer) == b"too late"
            assert asked.is_set()
            for _ in range(5):  # writes to a socket that nobody reads any more
                assert library.rv("C_GetInfo", buffer_of(256)) == Rv.DEVICE_REMOVED
    finally:
        signal.signal(signal.SIGALRM, before)
        signal.signal(signal.SIGPIPE, pipe)
    assert heard
