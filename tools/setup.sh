#!/bin/sh
# Makes .venv ready: finds a Python, makes the environment, installs secgear (editable) and the
# dependency groups given as arguments. Whatever is there already is not fetched again, so a
# complete environment needs no network.
#
#   tools/setup.sh test check
#
# PYTHON=/path/to/python chooses the interpreter; otherwise the system's is taken, because an
# enclave's interpreter must be readable by the unprivileged users that the tests become.
set -eu
cd "$(dirname "$0")/.."

say() { printf '==> %s\n' "$*"; }
die() {
    printf 'set-up failed: %s\n' "$*" >&2
    exit 1
}

new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        new_enough "$PYTHON" ||
            die "PYTHON=$PYTHON is not a working Python 3.11 or later"
        command -v "$PYTHON"
        return
    fi
    for candidate in /usr/bin/python3.11 python3.11 /usr/bin/python3 python3 \
        python3.14 python3.13 python3.12; do
        if new_enough "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    die "no Python 3.11 or later found. On Debian or Ubuntu: apt-get install python3 python3-venv." \
        "If it is elsewhere: make PYTHON=/path/to/python3"
}

# An environment that was copied or moved along with its folder still points at the old one.
usable() {
    grep -qF "$(pwd -P)/.venv" .venv/bin/activate 2>/dev/null &&
        new_enough .venv/bin/python && .venv/bin/python -m pip --version >/dev/null 2>&1
}

make_environment() {
    python=$(find_python)
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        package=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
        say "$python can't make virtual environments yet"
        sh tools/debian.sh "$package" ||
            die "$python has no venv module. As root: apt-get install $package," \
                "or choose another interpreter: make PYTHON=/path/to/python3"
    fi
    say "making .venv with $("$python" -V) ($python)"
    rm -rf .venv
    "$python" -m venv .venv || die "$python -m venv failed; its message is above"
}

install() {
    # Twice quiet: errors only.
    .venv/bin/python -m pip install -qq --progress-bar off --disable-pip-version-check \
        --root-user-action ignore "$@"
}

usable || make_environment

# Dependency groups need pip 25.1, license expressions setuptools 77: newer than Debian 12 has.
# With setuptools in the environment, installing secgear itself asks no package index.
install 'pip>=25.1' 'setuptools>=77' ||
    die "pip could not be brought up to date; its message is above. Is the package index reachable?"
sh tools/compiler.sh .venv/bin/python "$@"
groups=
for group in "$@"; do groups="$groups --group $group"; done
say "installing secgear and what it needs (groups: $*); the first time this takes a minute or two"
# shellcheck disable=SC2086  # the groups are words
install --no-build-isolation --editable . $groups ||
    die "a package could not be installed; pip's message is above. Run the same command again to go on"
say "ready"
