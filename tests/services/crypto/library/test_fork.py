"""Fork, exec and unloading: a child is a stranger until it initialises the library itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.services.crypto.library.answering import Answering
from tests.services.crypto.library.programs import run


def test_a_child_initialises_for_itself_and_the_parent_goes_on(
    built: Path, tmp_path: Path, server: Answering
) -> None:
    run(built, tmp_path, server, """
        library = Library(path)
        library.initialise(address)
        session = Session(library)

        def work():
            assert library.rv("C_GetInfo", buffer_of(256)) == Rv.CRYPTOKI_NOT_INITIALIZED
            assert session.rv("C_GenerateRandom", buffer_of(9), 9) == Rv.CRYPTOKI_NOT_INITIALIZED
            assert library.rv("C_Finalize", None) == Rv.CRYPTOKI_NOT_INITIALIZED
            library.initialise(address)
            Session(library).call("C_GenerateRandom", buffer_of(9), 9)
            library.call("C_Finalize", None)

        for _ in range(3):
            in_child(work)
            session.call("C_GenerateRandom", buffer_of(9), 9)  # the parent's session is its own
        library.call("C_Finalize", None)
    """)  # fmt: skip
    assert server.connections == 4


def test_a_fork_in_the_middle_of_calls_leaves_no_lock_behind(
    built: Path, tmp_path: Path, server: Answering
) -> None:
    run(built, tmp_path, server, """
        library = Library(path)
        library.initialise(address)
        stop = threading.Event()

        def busy():
            own = Session(library)
            while not stop.is_set():
                own.call("C_GenerateRandom", buffer_of(3000), 3000)

        threads = [threading.Thread(target=busy) for _ in range(4)]
        for thread in threads:
            thread.start()

        def work():
            assert library.rv("C_GetInfo", buffer_of(256)) == Rv.CRYPTOKI_NOT_INITIALIZED
            library.initialise(address)
            library.call("C_GetInfo", buffer_of(256))

        for _ in range(20):
            in_child(work)
        stop.set()
        for thread in threads:
            thread.join()
        library.call("C_Finalize", None)
    """)  # fmt: skip


def test_a_child_that_ends_takes_nothing_of_the_parents_along(
    built: Path, tmp_path: Path, server: Answering
) -> None:
    """Not even its C_Finalize, nor a remote module's command."""
    run(built, tmp_path, server, f"""
        relay = f"|{{sys.executable}} {Path(__file__).with_name("relay.py")} {{address[5:]}}"
        library = Library(path)
        library.initialise(relay)
        session = Session(library)
        in_child(lambda: library.rv("C_Finalize", None))
        in_child(library.close)
        session.call("C_GenerateRandom", buffer_of(9), 9)
        library.call("C_Finalize", None)
        try:
            os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            print("no child is left")
    """)  # fmt: skip


def test_an_unloaded_library_is_gone_for_good(
    built: Path, tmp_path: Path, server: Answering
) -> None:
    """With its handler of forks, and with its connection where C_Finalize was forgotten."""
    said = run(built, tmp_path, server, """
        before = set(os.listdir("/proc/self/fd"))
        for forgotten in (False, True):
            library = Library(path)
            library.initialise(address)
            if not forgotten:
                library.call("C_Finalize", None)
            library.close()
            assert str(path) not in Path("/proc/self/maps").read_text(), "it is still loaded"
            assert set(os.listdir("/proc/self/fd")) == before, "a descriptor is left"
            in_child(lambda: None)
        library = Library(path)
        library.initialise(address)
        print("again")
    """)  # fmt: skip
    assert said == "again\n"


def test_programs_that_are_started_inherit_nothing(
    built: Path, tmp_path: Path, server: Answering
) -> None:
    said = run(built, tmp_path, server, """
        import subprocess
        library = Library(path)
        library.initialise(address)
        list_ = "import os; print(sorted(os.listdir('/proc/self/fd'), key=int))"
        first = subprocess.run([sys.executable, "-c", list_], close_fds=False, capture_output=True)
        library.call("C_Finalize", None)
        second = subprocess.run([sys.executable, "-c", list_], close_fds=False, capture_output=True)
        print(first.stdout == second.stdout, first.stdout != b"")
    """)  # fmt: skip
    assert said == "True True\n"


@pytest.mark.parametrize("command", [False, True])
def test_what_a_daemon_prints_is_no_part_of_a_call(
    built: Path, tmp_path: Path, server: Answering, command: bool
) -> None:
    """It has closed its standard descriptors; their numbers are not the connection's."""
    relay = Path(__file__).with_name("relay.py")
    run(built, tmp_path, server, f"""
        if {command}:
            address = f"|{{sys.executable}} {relay} {{address[5:]}}"
        kept = [os.dup(descriptor) for descriptor in range(3)]
        os.closerange(0, 3)
        try:
            library = Library(path)
            library.initialise(address)
            taken = [one for one in range(3) if os.path.exists(f"/proc/self/fd/{{one}}")]
            Session(library).call("C_GenerateRandom", buffer_of(9), 9)
            library.call("C_Finalize", None)
        finally:
            for descriptor in range(3):
                os.dup2(kept[descriptor], descriptor)
        assert not taken, taken
    """)  # fmt: skip


def test_what_the_terminal_sends_to_all_ends_no_command(
    built: Path, tmp_path: Path, server: Answering
) -> None:
    """An interrupt that the application handles is not the end of its module."""
    relay = Path(__file__).with_name("relay.py")
    run(built, tmp_path, server, f"""
        import signal
        os.setpgid(0, 0)
        interrupted = []
        signal.signal(signal.SIGINT, lambda *_: interrupted.append(True))
        library = Library(path)
        library.initialise(f"|{{sys.executable}} {relay} {{address[5:]}}")
        session = Session(library)
        os.killpg(0, signal.SIGINT)
        for _ in range(3):
            session.call("C_GenerateRandom", buffer_of(9), 9)
        library.call("C_Finalize", None)
        assert interrupted
    """)  # fmt: skip


def test_a_descriptor_that_the_application_has_closed_is_its_own(
    built: Path, tmp_path: Path, server: Answering
) -> None:
    """Whatever has the number now gets no call, PINs least of all, and stays open."""
    run(built, tmp_path, server, """
        import socket
        library = Library(path)
        library.initialise(address)
        session = Session(library)
        places = [f"/proc/self/fd/{one}" for one in range(3, 100)]
        [number] = [int(one[14:]) for one in places
                    if os.path.islink(one) and os.readlink(one).startswith("socket:")]
        mine, peers = socket.socketpair()
        os.dup2(mine.fileno(), number)  # closes what was there
        mine.close()
        assert session.rv("C_Login", 1, b"a PIN", 5) == Rv.DEVICE_REMOVED
        in_child(lambda: os.fstat(number))
        library.call("C_Finalize", None)
        os.write(number, b"the application's")
        assert peers.recv(100) == b"the application's"
        library.initialise(address)
        Session(library).call("C_GenerateRandom", buffer_of(9), 9)
    """)  # fmt: skip


@pytest.mark.parametrize("times", [30])
def test_loading_and_unloading_again_and_again_leaks_nothing(
    built: Path, tmp_path: Path, server: Answering, times: int
) -> None:
    said = run(built, tmp_path, server, f"""
        def round_():
            library = Library(path)
            library.initialise(address)
            Session(library).call("C_GenerateRandom", buffer_of(100000), 100000)
            library.call("C_Finalize", None)
            library.close()

        round_()
        before = len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))
        for _ in range({times}):
            round_()
        print(before == (len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))))
    """)  # fmt: skip
    assert said == "True\n"
