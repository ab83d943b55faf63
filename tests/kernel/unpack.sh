#!/bin/sh
# Unpacks Debian's kernel for virtual machines into a folder: vmlinuz, modules/. Nothing is installed.
set -eu

folder=$1
meta=linux-image-cloud-amd64
[ ! -e "$folder/vmlinuz" ] || exit 0

newest() {
    apt-cache depends --important "$meta" 2>/dev/null | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)$/\1/p'
}

[ -n "$(newest)" ] || apt-get update -qq
package=$(newest)
[ -n "$package" ] || { echo "No package $meta here: this needs a Debian."; exit 1; }

mkdir -p "$folder"
scratch=$(mktemp -d "$folder/.unpacking-XXXXXX")
trap 'rm -rf "$scratch"' EXIT
# apt's own user may not write here: it says so and downloads all the same.
(cd "$scratch" && apt-get download -qq "$package" 2>errors) || { cat "$scratch/errors"; exit 1; }
dpkg-deb --extract "$scratch"/*.deb "$scratch/tree"
rm -rf "$folder/modules"
mv "$scratch"/tree/lib/modules/*/kernel "$folder/modules"
mv "$scratch"/tree/boot/vmlinuz-* "$folder/vmlinuz"
