"""Where the library finds its module, and the commands that lead to one."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from ctypes import byref
from pathlib import Path

import pytest

from secgear.services.crypto.library.build import build
from secgear.services.crypto.pkcs11.rv import Rv
from secgear.services.crypto.token.module import Module
from tests.adversary.crypto_host import PIN
from tests.services.crypto.library.answering import Answering, answering, honest
from tests.services.crypto.library.cryptoki import (
    InitializeArgs,
    Library,
    Session,
    buffer_of,
    copy_of,
    loaded,
)

RELAY = Path(__file__).with_name("relay.py")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home, and no settings of the developer's."""
    place = tmp_path / "home"
    place.mkdir()
    monkeypatch.setenv("HOME", str(place))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.delenv("SECGEAR_PKCS11", raising=False)
    return place


def configured(folder: Path, text: str) -> None:
    (folder / "secgear").mkdir(parents=True)
    (folder / "secgear" / "pkcs11.conf").write_text(text)
    (folder / "secgear" / "pkcs11.conf").chmod(0o644)


def test_who_says_nothing_gets_nothing(library: Library) -> None:
    assert library.rv("C_Initialize", None) == Rv.GENERAL_ERROR


def test_the_environment_says_where(
    library: Library, server: Answering, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECGEAR_PKCS11", server.address)
    library.call("C_Initialize", None)
    assert server.connections == 1


@pytest.mark.parametrize("xdg", [False, True])
def test_the_users_file_says_where(
    library: Library,
    server: Answering,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    xdg: bool,
) -> None:
    folder = home / ".config"
    if xdg:
        folder = tmp_path / "elsewhere"
        monkeypatch.setenv("XDG_CONFIG_HOME", str(folder))
    configured(folder, f"# where it is\n\n  module =\t{server.address}  \n")
    library.call("C_Initialize", None)
    assert server.connections == 1


def test_the_more_particular_comes_first(
    library: Library, server: Answering, home: Path, monkeypatch: pytest.MonkeyPatch, short: Path
) -> None:
    """The application's own word, the environment, the user's file."""
    nobody = f"unix:{short}/nobody"
    configured(home / ".config", f"module = {nobody}\n")
    monkeypatch.setenv("SECGEAR_PKCS11", server.address)
    library.call("C_Initialize", None)
    library.call("C_Finalize", None)
    monkeypatch.setenv("SECGEAR_PKCS11", nobody)
    assert library.rv("C_Initialize", None) == Rv.FUNCTION_FAILED
    library.initialise(server.address)
    assert server.connections == 2


@pytest.mark.parametrize(
    "text",
    [
        "modul = unix:/x\n",
        "module unix:/x\n",
        "module = tcp://host:1\n",
        "module =\n",
        "module = unix:relative\n",
        "module = |\n",
        "module = unix:/" + "x" * 5000 + "\n",
        "x" * 5000,
    ],
)
def test_a_file_that_says_something_else_is_an_error(
    library: Library, home: Path, text: str
) -> None:
    configured(home / ".config", text)
    assert library.rv("C_Initialize", None) == Rv.GENERAL_ERROR


def test_a_file_that_can_not_be_read_is_an_error(library: Library, home: Path) -> None:
    (home / ".config" / "secgear" / "pkcs11.conf").mkdir(parents=True)
    assert library.rv("C_Initialize", None) == Rv.GENERAL_ERROR


@pytest.mark.parametrize("mode", [0o664, 0o646])
def test_a_file_that_others_may_write_is_an_error(
    library: Library, server: Answering, home: Path, mode: int
) -> None:
    """It can name a command, which would be theirs."""
    configured(home / ".config", f"module = {server.address}\n")
    (home / ".config" / "secgear" / "pkcs11.conf").chmod(mode)
    assert library.rv("C_Initialize", None) == Rv.GENERAL_ERROR
    assert server.connections == 0


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give a file away")
def test_a_file_of_another_users_is_an_error(
    library: Library, server: Answering, home: Path
) -> None:
    """As where root has kept somebody's HOME."""
    configured(home / ".config", f"module = {server.address}\n")
    os.chown(home / ".config" / "secgear" / "pkcs11.conf", 65534, 65534)
    assert library.rv("C_Initialize", None) == Rv.GENERAL_ERROR
    assert server.connections == 0


def test_a_file_that_is_a_pipe_keeps_nobody_waiting(library: Library, home: Path) -> None:
    (home / ".config" / "secgear").mkdir(parents=True)
    os.mkfifo(home / ".config" / "secgear" / "pkcs11.conf", 0o600)
    assert library.rv("C_Initialize", None) == Rv.GENERAL_ERROR


@pytest.mark.parametrize("said", [b"", b"configdir='/x'", b"tcp://host:1", b"unix:" + b"/x" * 5000])
def test_an_application_that_says_something_else_has_bad_arguments(
    library: Library, said: bytes
) -> None:
    assert (
        library.rv("C_Initialize", byref(InitializeArgs(flags=2, reserved=said)))
        == Rv.ARGUMENTS_BAD
    )


def test_a_library_can_be_built_for_one_module(
    tmp_path: Path, server: Answering, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECGEAR_PKCS11", "unix:/somewhere/else")
    build(tmp_path / "own.so", address=server.address)
    with loaded(tmp_path / "own.so") as library:
        library.call("C_Initialize", None)
        assert server.connections == 1


PROGRAM = """
#include <dlfcn.h>
#include <stdio.h>
int main(int count, char **words)
{
    void *library = dlopen(words[1], RTLD_NOW);
    unsigned long (*initialise)(void *) = (unsigned long (*)(void *))dlsym(library, "C_Initialize");
    struct { void *mutexes[4]; unsigned long flags; char *address; } arguments = {{0}, 2, words[2]};
    printf("%lx", initialise(count > 2 ? &arguments : NULL));
    return 0;
}
"""


def compiled(folder: Path) -> Path:
    """A program that initialises a library, with an address if it gets one."""
    (folder / "program.c").write_text(PROGRAM)
    subprocess.run(["cc", str(folder / "program.c"), "-o", str(folder / "program")], check=True)
    return folder / "program"


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to make a program set-user-id")
def test_a_program_with_more_rights_than_its_user_does_not_listen_to_the_user(
    built: Path, module: Module, home: Path
) -> None:
    with tempfile.TemporaryDirectory(prefix="sg") as name:
        folder = Path(name)
        folder.chmod(0o755)
        library = copy_of(built, folder)
        program = compiled(folder)
        with answering(folder / "socket", honest(module)) as server:
            server.path.chmod(0o777)
            configured(home / ".config", f"module = {server.address}")
            environment = {**os.environ, "SECGEAR_PKCS11": server.address}
            for mode, expected in ((0o755, Rv.OK), (0o4755, Rv.GENERAL_ERROR)):
                program.chmod(mode)
                done = subprocess.run(
                    [str(program), str(library)], env=environment, user=65534, group=65534,
                    extra_groups=[], stdout=subprocess.PIPE, check=True,
                )  # fmt: skip
                if mode & 0o4000 and os.statvfs(folder).f_flag & os.ST_NOSUID:
                    pytest.skip("set-user-id means nothing on this file system")
                assert int(done.stdout, 16) == expected


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to make a program set-user-id")
@pytest.mark.parametrize("mode", [0o755, 0o4755])
def test_the_commands_of_such_a_program_are_not_the_users(built: Path, mode: int) -> None:
    """Neither what PATH finds, nor what the environment tells a program that is the right one."""
    with tempfile.TemporaryDirectory(prefix="sg") as name:
        folder = Path(name)
        folder.chmod(0o755)
        library = copy_of(built, folder)
        program = compiled(folder)
        (folder / "said").mkdir(0o777)
        (folder / "said").chmod(0o777)
        for command in ("by-path", "by-name"):
            (folder / command).write_text(f"#!/bin/sh\nenv > {folder}/said/{command}\n")
            (folder / command).chmod(0o755)
        program.chmod(mode)
        if mode & 0o4000 and os.statvfs(folder).f_flag & os.ST_NOSUID:
            pytest.skip("set-user-id means nothing on this file system")
        environment = {"PATH": f"{folder}:{os.environ['PATH']}", "PYTHONPATH": "/users"}
        for command in ("by-name", f"{folder}/by-path"):
            done = subprocess.run(
                [str(program), str(library), f"|{command}"], env=environment, user=65534,
                group=65534, extra_groups=[], stdout=subprocess.PIPE, check=True,
            )  # fmt: skip
            assert int(done.stdout, 16) == Rv.FUNCTION_FAILED  # neither is a module
        users = not mode & 0o4000
        assert (folder / "said" / "by-name").exists() == users
        assert ("PYTHONPATH=/users" in (folder / "said" / "by-path").read_text()) == users


# --- commands ------------------------------------------------------------------------------------


def children() -> set[int]:
    """This process's children, dead ones that nobody has waited for among them."""
    tasks = Path("/proc/self/task").iterdir()
    return {int(word) for task in tasks for word in (task / "children").read_text().split()}


def test_a_command_carries_the_frames(library: Library, server: Answering) -> None:
    before = children()
    library.initialise(f"|{sys.executable} {RELAY} {server.path}")
    Session(library, pin=PIN).call("C_GenerateRandom", buffer_of(1 << 20), 1 << 20)
    library.call("C_Finalize", None)
    assert children() <= before  # it is gone and waited for


def test_a_commands_words_are_kept_together_by_quotes(
    library: Library, module: Module, short: Path
) -> None:
    with answering(short / "a b'c\\d", honest(module)) as odd:
        quoted = f"'{short}/a b'\"'\"c\\\\d"
        library.initialise(f"|  '{sys.executable}' \t {RELAY} {quoted} ")
        assert odd.connections == 1


@pytest.mark.parametrize(
    "command",
    [
        "|/no/such/program",
        f"|{sys.executable} -c pass",  # ends without a word
        f"|{sys.executable} -c 'print(1)'",  # says something else
        "|'not closed",
        "| ",
        "|" + "x " * 100,
    ],
)
def test_a_command_that_does_not_work_is_no_module(library: Library, command: str) -> None:
    before = children()
    args = InitializeArgs(flags=2, reserved=command.encode())
    assert library.rv("C_Initialize", byref(args)) == Rv.FUNCTION_FAILED
    assert children() <= before


def test_a_command_that_does_not_end_is_ended(library: Library, server: Answering) -> None:
    """It hears the end of its input, then SIGTERM, then it has no choice."""
    stubborn = (
        "import os, runpy, signal, sys, threading; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        f"sys.argv = ['relay', '{server.path}']; "
        f"threading.Thread(target=lambda: runpy.run_path('{RELAY}', run_name='__main__'), "
        "daemon=True).start(); threading.Event().wait()"
    )
    before = children()
    library.initialise(f'|{sys.executable} -c "{stubborn}"')
    library.call("C_GetInfo", buffer_of(256))
    library.call("C_Finalize", None)
    assert children() <= before


def test_a_command_that_ends_is_a_device_that_was_removed(
    library: Library, server: Answering
) -> None:
    library.initialise(f"|{sys.executable} {RELAY} {server.path}")
    server.drop()
    assert library.rv("C_GetInfo", buffer_of(256)) == Rv.DEVICE_REMOVED
    library.call("C_Finalize", None)
