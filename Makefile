# Thin names for the commands in crates/xtask: `cargo x --help` lists them all.

.PHONY: test check install setup

test: setup
	@cargo x test

check:
	@cargo x check

install: setup
	@cargo x install

setup:
	@cargo x setup
