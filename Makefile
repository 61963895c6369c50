# Everything a person runs. `make demo` and `make test` set up what they lack.
SHELL := /bin/bash
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.PHONY: help setup demo up test vectors fuzz lint fmt clippy doc house licences soak bench env clean

ifeq ($(HOME)$(POSTA_CACHE),)
$(error set HOME, or POSTA_CACHE to a folder that may hold about 5 GB)
endif
# One folder outside the clone for all that is built; several clones share it.
export POSTA_CACHE ?= $(HOME)/.cache/posta
export CARGO_TARGET_DIR ?= $(POSTA_CACHE)/target
export ROCKSDB_STATIC := 1
export ROCKSDB_LIB_DIR := $(shell source .ci/env && echo "$$ROCKSDB_LIB_DIR")
ifeq ($(ROCKSDB_LIB_DIR),)
$(error .ci/env could not tell where RocksDB's archive belongs)
endif

# Always the release profile and always the whole workspace: one set of features, so nothing is built twice.
FLAGS := --release --workspace
RUNNER ?= $(if $(shell command -v cargo-nextest),nextest,cargo)
ARGS ?=

help: ## this list
	@echo "make <target>, for some with ARGS=\"...\":"
	@sed -nE 's/^([a-z]+):.*## (.*)/  \1\t\2/p' Makefile | expand -t 14

setup: ## check the tools, build RocksDB once (ten minutes)
	@.ci/setup

demo: setup ## a whole network on this machine, real messages, a report (ARGS=--json for scripts)
	@.ci/build
	@"$(CARGO_TARGET_DIR)/release/posta-testnet" demo $(ARGS)

up: setup ## a network that stays until Ctrl-C; prints how two people connect
	@.ci/build
	@"$(CARGO_TARGET_DIR)/release/posta-testnet" up $(ARGS)

test: setup ## all tests
ifeq ($(RUNNER),nextest)
	cargo nextest run $(FLAGS) $(ARGS)
else
	cargo test $(FLAGS) --lib --bins --examples
	cargo test $(FLAGS) --test '*' -- --test-threads=1
endif
	cargo test $(FLAGS) --doc

vectors: ## the test vectors, derived once more in Python
	@.ci/vectors

fuzz: ## every decoder and peel under libFuzzer, 5 s each (SECONDS=3600 for longer, ARGS="peel vote" for some)
	@.ci/fuzz $(if $(SECONDS),--seconds $(SECONDS)) $(ARGS)

lint: fmt clippy doc house ## format, clippy, docs and the house rules; warnings are errors

fmt: ## the format
	cargo fmt --all --check
	cargo fmt --check --manifest-path protocol-spec/fuzz/Cargo.toml

clippy: setup ## clippy
	cargo clippy $(FLAGS) --all-targets -- -D warnings

doc: setup ## the documentation of our crates
	RUSTDOCFLAGS="-D warnings" cargo doc $(FLAGS) --no-deps

house: ## sizes of files, layering, where tasks may start (needs python3)
	@.ci/house

licences: ## licences, banned crates and sources, without the network
	@.ci/deny

soak: setup ## what time tells of refused packets, the directory's rounds, then seeded kills, for hours; ends at the first loss
	cargo test $(FLAGS) --test attacks -- --ignored --nocapture --test-threads=1
	cargo test $(FLAGS) --lib -- --ignored --nocapture --test-threads=1 soak_
	cargo test $(FLAGS) --test programs --test store --test crash --test fuse --test session -- --ignored --nocapture --test-threads=1 $(ARGS)

bench: setup ## measure; each line has its value, the floor or peer beside it, and the ratio
	@.ci/build
	@"$(CARGO_TARGET_DIR)/release/posta-benches" $(if $(ARGS),$(ARGS),hop)

env: ## what plain cargo commands need; use it as: eval "$(make env)"
	@echo 'export CARGO_TARGET_DIR="$(CARGO_TARGET_DIR)" ROCKSDB_LIB_DIR="$(ROCKSDB_LIB_DIR)" ROCKSDB_STATIC=1'

clean: ## remove what was built, but keep RocksDB's archive and the tools
	rm -rf -- "$(POSTA_CACHE)/target" "$(POSTA_CACHE)/fuzz-target"
