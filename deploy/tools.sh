#!/bin/sh
# Makes sure of the programs that the lab uses (mkfs.xfs, mkfs.ext4, losetup), and of those that are named.
# usage: tools.sh [PROGRAM:PACKAGE[:RPM]]...   RPM: a RHEL-like's name, or the program's path there; default: PACKAGE
# Root installs what is missing; others are told. Debian has them all: there none may fail to come. The repositories
# of a RHEL-like may lack some: that is told, the lab does with less, and tests are skipped with the reason.
set -eu
PATH="$PATH:/usr/sbin:/sbin"

has() { command -v "$1" >/dev/null 2>&1; }

# Of these, what is not here: sets programs, and packages as this distribution calls them.
look() {
    programs="" packages=""
    for one in "$@"; do
        program=${one%%:*} names=${one#*:}
        if has "$program"; then continue; fi
        programs="$programs $program"
        if [ $family = rhel ]; then packages="$packages ${names##*:}"; else packages="$packages ${names%%:*}"; fi
    done
}

if has apt-get; then family=debian; elif has dnf; then family=rhel; else family=other; fi
set -- mkfs.xfs:xfsprogs mkfs.ext4:e2fsprogs losetup:util-linux "$@"
look "$@"
[ -n "$programs" ] || exit 0

if [ "$(id -u)" != 0 ]; then
    echo "note: not installed:$programs. The lab and the tests do without; as root, install:$packages"
    exit 0
fi
# shellcheck disable=SC2086 # lists of packages
case $family in
debian) { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages; } >/dev/null ;;
rhel)
    echo "Installing$packages ..."
    # strict=0: what no repository has is left out.
    if said=$(dnf install -y -q --setopt=strict=0 --setopt=install_weak_deps=0 $packages 2>&1); then
        why="no repository of this machine has them; EPEL has more: dnf install epel-release"
    else
        why=$(echo "$said" | tail -n 1)
    fi
    look "$@"
    [ -z "$programs" ] || echo "note: not installed:$programs ($why). The lab and the tests do without."
    ;;
other) echo "note: neither apt-get nor dnf here; please install:$packages" ;;
esac
