#!/bin/sh
# Builds the image of a node with buildah (or podman, or docker).
# usage: build.sh BASE [TAG]
#   BASE  an image by digest (docker.io/library/debian:12-slim@sha256:…), or one of this machine (localhost/…)
#   TAG   default localhost/mover:latest
# environment:
#   BUILDER        program and its global options, default "buildah"
#   BUILD_OPTIONS  further options of its build command, such as "--platform linux/arm64"
#   SOURCE, REVISION   address and commit of the source, for the image's labels
#   PIP_INDEX_URL, PIP_CERT (a file)   a mirror of the packages, and the certificates of a proxy in between
set -eu
cd "$(dirname "$0")/../.."

base=${1:-}
tag=${2:-localhost/mover:latest}
case $base in
"")
    echo "usage: $0 BASE [TAG]   (BASE: an image by digest, or localhost/…)" >&2
    exit 2
    ;;
*@sha256:????????????????????????????????????????????????????????????????) ;;
localhost/*) ;;
*)
    echo "$base is not pinned: name it by digest (NAME@sha256:<64 hex>), so that the same line builds the same image." >&2
    echo "do: skopeo inspect docker://$base | grep Digest" >&2
    exit 2
    ;;
esac

version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' mover/__init__.py)
revision=${REVISION:-$(git rev-parse HEAD 2>/dev/null || echo unknown)}
set -- --build-arg "BASE=$base" --build-arg "VERSION=$version" --build-arg "REVISION=$revision" \
    --build-arg "SOURCE=${SOURCE:-}" --build-arg "PIP_INDEX_URL=${PIP_INDEX_URL:-}"
[ -z "${PIP_CERT:-}" ] || set -- "$@" --secret "id=pip-cert,src=$PIP_CERT" --build-arg PIP_CERT=/run/secrets/pip-cert
builder=${BUILDER:-buildah}
case ${builder%% *} in
docker | */docker) ;; # knows its own format alone, and finds the ignore file by its name
# HEALTHCHECK exists in Docker's image format only; podman and docker both run it.
*) set -- --format docker --layers=false --ignorefile deploy/container/Containerfile.dockerignore "$@" ;;
esac
# shellcheck disable=SC2086 # programs and options are lists of words
exec $builder build ${BUILD_OPTIONS:-} --file deploy/container/Containerfile "$@" --tag "$tag" .
