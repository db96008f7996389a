#!/bin/sh
# Makes sure that the native ring can be built: a compiler, and the headers of PYTHON. Without them
# everything works and switchless calls take the stream, so it never fails; only for work on
# secgear itself, and where this user may, it installs what is missing.
#
#   tools/compiler.sh PYTHON GROUP...
set -eu
cd "$(dirname "$0")/.."
python=$1
shift

can_compile() {
    command -v "${CC:-cc}" >/dev/null && "$python" -c \
        'import os, sys, sysconfig as s; sys.exit(not os.path.exists(s.get_path("include") + "/Python.h"))'
}

can_compile && exit 0
case " $* " in *" test "* | *" check "* | *" bench "*) ;; *) exit 0 ;; esac
headers=$("$python" -c 'import sys; print("python%d.%d-dev" % sys.version_info[:2])')
if [ -z "${CC:-}" ] && sh tools/debian.sh gcc libc6-dev "$headers" && can_compile; then
    exit 0
fi
printf '==> note: no C compiler or no Python headers; switchless calls will take the stream. %s\n' \
    "As root: apt-get install gcc libc6-dev $headers, then: touch setup.py"
