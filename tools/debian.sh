#!/bin/sh
# Installs Debian packages when this user may (root, or sudo that asks for no password).
#
#   tools/debian.sh PACKAGE...
#
# Exit status 1, with nothing changed, when it can't; the caller says what that means.
set -eu

missing=
for package in "$@"; do
    case "$(dpkg-query -W -f '${Status}' "$package" 2>/dev/null)" in
    "install ok installed") ;;
    *) missing="$missing $package" ;;
    esac
done
[ -n "$missing" ] || exit 0
command -v apt-get >/dev/null || exit 1

if [ "$(id -u)" = 0 ]; then
    as_root=
elif sudo -n true 2>/dev/null; then
    as_root="sudo -n"
else
    exit 1
fi

export DEBIAN_FRONTEND=noninteractive
printf '==> installing Debian packages:%s\n' "$missing"
# shellcheck disable=SC2086  # both are lists of words
install() { $as_root apt-get install -qq -y --no-install-recommends $missing >/dev/null; }
# A fresh machine has no package lists; a used one may be offline and have everything cached.
install 2>/dev/null && exit 0
$as_root apt-get update -qq && install && exit 0
exit 1
