# SPDX-License-Identifier: GPL-2.0
# The front door; the work is in rig/. This file is the repository's own: it is
# not composed into the kernel tree.

# Several words are fine: ARCH="x86_64 arm64" FLAVOUR="plain debug".
export ARCH FLAVOUR T LONG BASE FORCE EACH V MIRROR

MAKEFLAGS += --no-print-directory

help:
	@echo 'make run      boot the patched kernel and watch a guest convert its memory'
	@echo 'make test     run every check: T=name ARCH=x86_64 FLAVOUR=kasan LONG=1 narrow or widen'
	@echo 'make bench    the numbers of the README'
	@echo 'make build    build the kernels: ARCH="x86_64 arm64" FLAVOUR="plain debug kasan"'
	@echo 'make tree     compose build/linux: base + our files + patches (FORCE=1: drop what it holds)'
	@echo 'make patches  write the commits of build/linux back to patches/ and to our files'
	@echo 'make series   write patches and our files as mail for git am to build/series, and prove it'
	@echo 'make check    checkpatch, sparse, W=1, kernel-doc, lock assertions, shellcheck (part of make test)'
	@echo 'make bisect   build and boot the kernel at the end of each part of the series (EACH=1: at each patch)'
	@echo 'make setup    install the Debian packages needed'
	@echo 'make clean    remove build/ (the cache outside the checkout stays)'
	@echo
	@echo 'BASE=linux-7.3.4.tar.xz or BASE=/path/to/linux.git takes Linux from there.'
	@echo 'Each target does what it needs first. Logs are in build/log/.'

setup:
	@rig/setup

tree: setup
	@rig/compose

patches: setup
	@rig/patches

build: tree
	@set -e; \
	for arch in $${ARCH:-x86_64 arm64}; do \
		for flavour in $${FLAVOUR:-plain}; do \
			rig/build $$arch $$flavour; \
		done; \
	done

run: tree
	@rig/run

test: tree
	@rig/test

series: setup
	@rig/series

check: tree
	@ARCH=host rig/test --no-build $(if $(T),,'check-*')

bisect: setup
	@rig/bisect

bench: tree
	@rig/bench

clean:
	rm -rf build

.PHONY: help setup tree patches build run test series check bisect bench clean
