#!/bin/sh
# Makes a virtual environment where the distribution ships Python without one (Debian).
# usage: venv.sh PYTHON FOLDER
set -eu
rm -rf "$2"
version=$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "Installing python$version-venv ..."
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "python$version-venv"; } >/dev/null
    exec "$1" -m venv "$2"
fi
echo "This Python has no venv module. Debian: apt-get install python$version-venv; others: install it, then run make again." >&2
exit 1
