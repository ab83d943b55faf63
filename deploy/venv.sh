#!/bin/sh
# Makes a virtual environment of Python 3.11 or newer. Root installs what the distribution keeps apart:
# Debian the module venv, RHEL 9 such a Python.
# usage: venv.sh FOLDER [PYTHON]
set -eu
folder=$1
named=${2:-}

has() { command -v "$1" >/dev/null 2>&1; }

find_python() {
    for one in ${named:-python3 python3.14 python3.13 python3.12 python3.11}; do
        if "$one" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
            echo "$one"
            return
        fi
    done
}

is_root_with() { [ "$(id -u)" = 0 ] && has "$1"; }

python=$(find_python)
if [ -z "$python$named" ] && ! has apt-get && is_root_with dnf; then
    echo "Installing python3.11 or python3.12 ..."
    said=$(dnf install -y -q python3.11 2>&1 || dnf install -y -q python3.12 2>&1) || echo "$said" >&2
    python=$(find_python)
fi
if [ -z "$python" ]; then
    echo "mover needs Python 3.11 or newer; ${named:-python3} is not. Name one: make demo PYTHON=/path/to/python3.12" \
        "(RHEL 9 has it beside its own: dnf install python3.11)" >&2
    exit 1
fi

if "$python" -m venv "$folder" 2>/dev/null; then exit 0; fi
rm -rf "$folder"
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
if is_root_with apt-get && ! "$python" -c 'import ensurepip' 2>/dev/null; then
    echo "Installing python$version-venv ..."
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "python$version-venv"; } >/dev/null
fi
if "$python" -m venv "$folder"; then exit 0; fi
rm -rf "$folder"
echo "$python makes no virtual environment. On Debian, as root: apt-get install python$version-venv; then run make again." >&2
exit 1
