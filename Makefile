# Thin names for the commands in crates/xtask: `cargo x --help` lists them all.

.PHONY: demo demo-stop test check install setup

demo: setup
	@cargo x demo

demo-stop:
	@cargo x demo-stop

test: setup
	@cargo x test

check:
	@cargo x check

install: setup
	@cargo x install

setup:
	@sh crates/xtask/bootstrap.sh
	@cargo x setup
