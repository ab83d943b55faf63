# make install   what mover needs, into .venv
# make demo   see a backup, an incremental and three kinds of restore, against the lab
# make test   all tests, with the real servers they need
# make check  what a developer runs before a commit: format, lint, types, floors, unit tests

# Another one than python3, or the newer one beside it: make demo PYTHON=/path/to/python3.12
PYTHON ?=
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check -qq
WORKERS ?= 2

.PHONY: install demo test test-failed test-long check lock reference tools test-tools bench clean image image-test bundle node-test kernel-test on-debian

install: $(VENV)/.ready tools

demo: $(VENV)/.ready tools
	@$(BIN)/mover demo

test: $(VENV)/.test-ready $(VENV)/ansible/.ready test-tools
	@$(BIN)/ruff check . && $(BIN)/ruff format --check --quiet . && $(BIN)/mypy
	@$(BIN)/pytest -n $(WORKERS) --dist worksteal -m "not long and not image and not node and not kernel"

# Those that failed just now, one at a time. Nothing to run (a failed lint, say) is a failure.
test-failed: $(VENV)/.test-ready
	@$(BIN)/pytest -v --last-failed --last-failed-no-failures none && \
	  echo "The tests above failed once and passed alone: they are flaky, mend them."

test-long: $(VENV)/.test-ready $(VENV)/ansible/.ready test-tools
	@$(BIN)/pytest -n $(WORKERS) --timeout 3600 -m "not image and not node and not kernel"

check: $(VENV)/.test-ready
	@$(BIN)/ruff format . && $(BIN)/ruff check . && $(BIN)/mypy
	@$(BIN)/pytest -n $(WORKERS) --dist worksteal -m "not long and not image and not node and not kernel" tests/test_architecture.py tests/test_docs.py tests/unit

bench: $(VENV)/.test-ready tools
	@$(BIN)/python -m bench.end_to_end

# The tables of settings, errors, metrics and routes, from the code.
reference: $(VENV)/.ready
	@$(BIN)/python deploy/reference.py

tools:
	@deploy/tools.sh

# Programs that tests start (deploy/tools.sh). Debian starts prometheus and its alertmanager where systemd runs.
TEST_TOOLS := promtool:prometheus:/usr/bin/promtool amtool:prometheus-alertmanager:/usr/bin/amtool \
  shellcheck:shellcheck:ShellCheck systemd-analyze:systemd lvm:lvm2 fio:fio

test-tools:
	@deploy/tools.sh $(TEST_TOOLS)

# The image of a node. BASE: Debian 12 by digest (deploy/container/README.md).
image:
	@deploy/container/build.sh "$(BASE)"

# Three tests are made of Debian's packages, wherever mover itself runs.
on-debian:
	@command -v apt-get >/dev/null || { echo "make $(MAKECMDGOALS): made of Debian's packages, it runs on Debian only."; exit 1; }

# Builds one from Debian's packages alone and runs it: one process, since its tests share the image.
# ARCHITECTURE=arm64: the same of another one, emulated; 20 minutes instead of 3.
IMAGE_TOOLS := buildah:buildah mmdebstrap:mmdebstrap podman:podman runc:runc conmon:conmon
# One of the programs of a package that has all of them.
EMULATION   := arch-test:arch-test qemu-aarch64-static:qemu-user-static

image-test: on-debian $(VENV)/.test-ready
	@deploy/tools.sh $(IMAGE_TOOLS) $(if $(ARCHITECTURE),$(EMULATION))
	@ARCHITECTURE=$(ARCHITECTURE) $(BIN)/pytest -m image tests/image

# What the Ansible role installs. BUNDLE_OPTIONS='--offline 3.11': with all wheels (deploy/ansible/README.md).
bundle: $(VENV)/.ready
	@deploy/ansible/bundle.sh $(BUNDLE_OPTIONS)

# Boots a Debian beside this machine and makes a node of it by the role: unit, device rules, a backup.
NODE_TOOLS := mmdebstrap:mmdebstrap systemd-nspawn:systemd-container nsenter:util-linux

node-test: on-debian $(VENV)/.test-ready $(VENV)/ansible/.ready
	@deploy/tools.sh $(NODE_TOOLS)
	@$(BIN)/pytest -m node tests/deploy

# Boots Debian's kernel in QEMU and plugs SCSI disks into it: what proves a device is asked of a real kernel.
KERNEL_TOOLS := qemu-system-x86_64:qemu-system-x86 cpio:cpio

kernel-test: on-debian $(VENV)/.test-ready
	@deploy/tools.sh $(KERNEL_TOOLS)
	@tests/kernel/unpack.sh $(VENV)/kernel
	@$(BIN)/pytest -m kernel tests/kernel

$(VENV)/bin/python:
	@deploy/venv.sh $(VENV) $(PYTHON)

$(VENV)/.ready: deploy/requirements.lock pyproject.toml | $(VENV)/bin/python
	@echo "Installing into $(VENV) ..."
	@$(PIP) install --require-hashes -r deploy/requirements.lock
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.test-ready: tests/requirements.lock $(VENV)/.ready
	@echo "Installing what the tests need ..."
	@$(PIP) install --require-hashes -r tests/requirements.lock
	@touch $@

# Apart from the rest: Ansible has its own versions of what mover uses.
$(VENV)/ansible/.ready: deploy/ansible/requirements.lock | $(VENV)/bin/python
	@echo "Installing Ansible for the tests of its role ..."
	@$(BIN)/python -m venv $(VENV)/ansible
	@$(VENV)/ansible/bin/python -m pip --disable-pip-version-check -qq install --require-hashes -r deploy/ansible/requirements.lock
	@touch $@

# Locks hold hashes and no registry's address. Needs uv.
lock:
	uv pip compile -q --upgrade --universal --generate-hashes -p 3.11 --no-header pyproject.toml --extra build -o deploy/requirements.lock
	uv pip compile -q --upgrade --universal --generate-hashes -p 3.11 --no-header pyproject.toml --extra test --extra bench --extra build -o tests/requirements.lock

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
