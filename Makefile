# Everything a newcomer needs; `make help` lists it. All of it happens in this folder, in .venv.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo test check check-fast check-native fuzz soak bench docs clean

# Interpreter for .venv; empty means: the system's, see tools/setup.sh.
PYTHON ?=
# More arguments for the tool behind a target: make test ARGS="-k wire"
ARGS ?=
# Minutes that `make fuzz` spends, and after which `make soak` begins nothing more.
MINUTES ?= 10

unexport PYTHONHOME PYTHONPATH

BIN := .venv/bin
# A copied folder must not go on using the environment of its original, so stamps know their place.
HERE := $(shell pwd -P | cksum | cut -d' ' -f1)
ready = .venv/.ready-$(1)-$(HERE)

# What the tests use if it is there: openssl as the external signer, a software TPM, PostgreSQL,
# and applications that work with keys in a cryptographic module.
DEBIAN := curl openssl swtpm postgresql \
    gnutls-bin libengine-pkcs11-openssl nginx-light opensc openssh-client p11-kit-modules

help:
	@echo 'make demo        two owners verify an enclave and join real data in it, then we try to see any'
	@echo 'make test        all tests (ARGS="-k wire" selects)'
	@echo 'make check       formatting, lint, types, layer and trust-domain contracts'
	@echo 'make check-fast  the same without types'
	@echo 'make check-native  the native ring and the PKCS#11 library under sanitizers and hostile peers'
	@echo 'make fuzz        hostile frames, channels, evidence, memory, PKCS#11 for MINUTES=$(MINUTES)'
	@echo 'make soak        10,000 sessions, 1,000,000 messages: then nothing may have grown'
	@echo 'make bench       benchmarks, ours and peers in one run'
	@echo 'make docs        the documentation as a site in site/'
	@echo 'make clean       remove .venv and everything else that was generated'
	@echo
	@echo 'PYTHON=/path/to/python3 chooses the interpreter (3.11 or later).'

# The native ring: what it is built from, and so when it must be built again.
NATIVE := $(wildcard setup.py secgear/base/transport/_ring*.[ch])

$(call ready,%): pyproject.toml tools/setup.sh tools/debian.sh tools/compiler.sh $(NATIVE)
	@PYTHON='$(PYTHON)' sh tools/setup.sh $*
	@touch '$@'

demo: $(call ready,demo)
	@$(BIN)/secgear demo $(ARGS)

test: $(call ready,test)
	@sh tools/debian.sh $(DEBIAN) || \
	    echo 'note: without $(DEBIAN) some tests are skipped; as root: apt-get install $(DEBIAN)'
	@$(BIN)/python -m pytest -n auto --dist worksteal $(ARGS)

check: check-fast
	$(BIN)/mypy

check-fast: $(call ready,check)
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/lint-imports

check-native: $(call ready,test)
	@$(BIN)/python tests/native/check.py $(ARGS)

# A sixth of the time each: hostile frames; hostile networks and peers of channels; damaged evidence
# and documents; shared memory that is scribbled on; answers to the PKCS#11 library; every property test again and again, with other
# generated input each time.
fuzz: $(call ready,test)
	@FUZZ_SECONDS=$$((10 * $(MINUTES))) $(BIN)/python tests/fuzz/frames.py
	@FUZZ_SECONDS=$$((10 * $(MINUTES))) $(BIN)/python tests/fuzz/channel.py
	@FUZZ_SECONDS=$$((10 * $(MINUTES))) $(BIN)/python tests/fuzz/evidence.py
	@FUZZ_SECONDS=$$((10 * $(MINUTES))) $(BIN)/python tests/fuzz/ring.py
	@FUZZ_SECONDS=$$((10 * $(MINUTES))) $(BIN)/python tests/fuzz/crypto_library.py
	@end=$$(($$(date +%s) + 10 * $(MINUTES))); \
	while [ $$(date +%s) -lt $$end ]; do \
	    $(BIN)/python -m pytest -m hypothesis --hypothesis-profile=default -n auto -q $(ARGS) || exit 1; \
	done

soak: $(call ready,test)
	@$(BIN)/python tests/soak/channel.py --minutes $(MINUTES) $(ARGS)

bench: $(call ready,bench)
	@$(BIN)/python -m bench $(ARGS)

docs: $(call ready,docs)
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet $(ARGS)
	@echo 'open site/index.html'

clean:
	rm -rf .venv site build dist *.egg-info .hypothesis .mypy_cache .ruff_cache .pytest_cache \
	    .import_linter_cache
	rm -f secgear/base/transport/_ring*.so
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
