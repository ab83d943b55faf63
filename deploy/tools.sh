#!/bin/sh
# Makes sure of the programs that the lab uses (mkfs.xfs, mkfs.ext4, e2fsck, losetup).
# Root installs what is missing; others are told, and the lab does with less.
set -eu

missing=""
for pair in mkfs.xfs:xfsprogs mkfs.ext4:e2fsprogs losetup:util-linux "$@"; do
    program=${pair%%:*}
    PATH="$PATH:/usr/sbin:/sbin" command -v "$program" >/dev/null 2>&1 || missing="$missing ${pair##*:}"
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" != 0 ]; then
    echo "note: not installed:$missing. The lab does without; as root, install them for the whole demo."
    exit 0
fi
if command -v apt-get >/dev/null 2>&1; then
    # shellcheck disable=SC2086 # a list of packages
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing; } >/dev/null
elif command -v dnf >/dev/null 2>&1; then
    # shellcheck disable=SC2086
    dnf install -y -q $missing
else
    echo "note: neither apt-get nor dnf here; please install:$missing"
fi
