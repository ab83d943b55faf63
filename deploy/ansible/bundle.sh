#!/bin/sh
# Makes dist/mover-bundle.tar.gz, which the role installs: mover as a wheel, and the lock of what it needs.
# usage: bundle.sh [--offline [PYTHON_VERSION]]
#   --offline  brings the wheels of the lock along, for nodes that reach no package index;
#              PYTHON_VERSION: the nodes', default 3.11 (Debian 13: 3.13)
# environment: PYTHON, with pip and setuptools (default: .venv/bin/python); BUNDLE, another file to write
set -eu
cd "$(dirname "$0")/../.."
python=${PYTHON:-$PWD/.venv/bin/python}
bundle=${BUNDLE:-$PWD/dist/mover-bundle.tar.gz}
offline=no
if [ "${1:-}" = --offline ]; then offline=${2:-3.11}; fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/source" "$work/bundle"
cp -R mover pyproject.toml README.md LICENSE "$work/source"
find "$work/source" -name __pycache__ -prune -exec rm -r {} +
# The same commit gives the same bytes, so that Ansible sees no change where there is none.
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct 2>/dev/null || echo 315532800)
export SOURCE_DATE_EPOCH
"$python" -m pip --disable-pip-version-check wheel --quiet --no-deps --no-build-isolation --no-index \
    --wheel-dir "$work/bundle" "$work/source"
cp deploy/requirements.lock LICENSE "$work/bundle"
if [ "$offline" != no ]; then
    # pip judges "; python_full_version < …" by the Python that it runs on, whatever --python-version says.
    "$python" deploy/ansible/lock_of.py "$offline" <deploy/requirements.lock >"$work/wanted.lock"
    "$python" -m pip --disable-pip-version-check --no-input download --quiet --require-hashes --only-binary :all: \
        --python-version "$offline" --requirement "$work/wanted.lock" --dest "$work/bundle/wheels"
fi
mkdir -p "$(dirname "$bundle")"
tar --directory "$work/bundle" --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner \
    --mode=go=rX,u+rw --create . | gzip --no-name --best >"$work/bundle.tar.gz"
mv "$work/bundle.tar.gz" "$bundle"
echo "$bundle $(sha256sum "$bundle" | cut -c1-12)"
