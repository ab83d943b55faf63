#!/bin/sh
# Makes a local base image of Debian 12 from its packages alone, where no image registry can be reached.
# usage: base.sh TAG [PACKAGE...]     (as root; needs mmdebstrap and buildah)
# environment:
#   BUILDER        program and its global options, default "buildah"
#   ARCHITECTURE   amd64 or arm64, default this machine's. The other one needs programs of it to run here
#                  (qemu-user-static, with binfmt_misc mounted when it is installed) and the package arch-test.
set -eu
tag=${1:?usage: base.sh TAG [PACKAGE...]}
shift
packages=python3,python3-venv,ca-certificates
for package in "$@"; do packages=$packages,$package; done
builder=${BUILDER:-buildah}
architecture=${ARCHITECTURE:-$(dpkg --print-architecture)}

folder=$(mktemp -d)
container=
clean() {
    # shellcheck disable=SC2086 # program and options
    [ -z "$container" ] || $builder rm "$container" >/dev/null
    rm -rf "$folder"
}
trap clean EXIT
trap 'exit 1' INT TERM

# What Debian's own slim images leave out too; licences stay.
mmdebstrap --quiet --variant=minbase --architectures="$architecture" --include="$packages" \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
    bookworm "$folder/root.tar"
# shellcheck disable=SC2086
container=$($builder from scratch)
# shellcheck disable=SC2086
$builder add --quiet "$container" "$folder/root.tar" / >/dev/null
# shellcheck disable=SC2086
$builder config --arch "$architecture" "$container"
# shellcheck disable=SC2086
$builder commit --quiet --format docker "$container" "$tag" >/dev/null
echo "$tag"
