# SPDX-License-Identifier: MIT
# A thin front to meson: every target makes what it needs, missing Debian packages included.
#
#   make            build into build/
#   make check      build and run all tests
#   make demo       restore a Linux guest lazily, beside an ordinary restore (DEMO_FLAGS=--short for a short one)
#   make sanitize   the tests under AddressSanitizer and UndefinedBehaviorSanitizer
#   make tsan       the memory-order test under ThreadSanitizer
#   make soak       the tests that kill brokers, with many more kills (SOAK_KILLS=20 at each place)
#   make tidy       build with clang, then clang-tidy
#   make bench      measure (tests/bench)
#   make seccomp-audit  which listed system calls does the test suite never make?
#   make format-check, make format
#   make deb        Debian packages into build-deb/, installed and purged once in a copy of this root (as root)
#   make install    meson install (DESTDIR, MESON_FLAGS=--prefix=...), and ldconfig as root without DESTDIR
.POSIX:

BUILD = build
MESON_FLAGS =
TEST_FLAGS =
DEMO_FLAGS =
BENCH_FLAGS =
SOAK_KILLS = 20
# What ends the output of `make check`; .ci/run adds a test of its own and says it itself.
SUMMARY_FLAGS = --closing-line

SANITIZE_FLAGS = -Db_sanitize=address,undefined -Db_lundef=false -Dbuildtype=debug -Doptimization=1
TSAN_FLAGS = -Db_sanitize=thread -Db_lundef=false -Dbuildtype=debugoptimized

all: packages-build
	@scripts/build '$(BUILD)' $(MESON_FLAGS)

check: packages-test
	@scripts/build '$(BUILD)' $(MESON_FLAGS)
	@scripts/check '$(BUILD)' '$(SUMMARY_FLAGS)' $(TEST_FLAGS)

demo: packages-demo
	@scripts/build '$(BUILD)' $(MESON_FLAGS)
	@examples/demo/run --build='$(BUILD)' $(DEMO_FLAGS)

sanitize: packages-test
	@scripts/build '$(BUILD)-sanitize' $(SANITIZE_FLAGS) $(MESON_FLAGS)
	@TEST_TIME_FACTOR=4 scripts/check '$(BUILD)-sanitize' '$(SUMMARY_FLAGS)' $(TEST_FLAGS)

tsan: packages-test
	@scripts/build '$(BUILD)-tsan' $(TSAN_FLAGS) $(MESON_FLAGS)
	@TEST_TIME_FACTOR=4 scripts/check '$(BUILD)-tsan' '$(SUMMARY_FLAGS)' --suite tsan $(TEST_FLAGS)

soak: packages-test
	@scripts/build '$(BUILD)' $(MESON_FLAGS)
	@PB_KILLS='$(SOAK_KILLS)' TEST_TIME_FACTOR=8 scripts/check '$(BUILD)' '$(SUMMARY_FLAGS)' --suite restart $(TEST_FLAGS)

tidy: packages-test packages-lint
	@CC=clang scripts/build '$(BUILD)-clang' $(MESON_FLAGS)
	@scripts/tidy '$(BUILD)-clang'

bench: packages-test packages-bench
	@scripts/build '$(BUILD)-release' -Dbuildtype=release $(MESON_FLAGS)
	@meson test -C '$(BUILD)-release' --no-rebuild --benchmark --verbose --num-processes 1 $(BENCH_FLAGS)

seccomp-audit: packages-test
	@scripts/build '$(BUILD)' $(MESON_FLAGS)
	@seccomp/audit '$(BUILD)' $(TEST_FLAGS)

format-check: packages-lint
	@scripts/format --check

format: packages-lint
	@scripts/format

install: all
	@meson install -C '$(BUILD)' --no-rebuild
	@if [ "$$(id -u)" -eq 0 ] && [ -z "$(DESTDIR)" ]; then ldconfig; fi

deb: packages-build packages-deb
	@scripts/build-deb '$(BUILD)-deb'
	@tests/package/in-root '$(BUILD)-deb' || [ $$? -eq 77 ]

clean:
	rm -rf '$(BUILD)' '$(BUILD)-deb' '$(BUILD)-sanitize' '$(BUILD)-tsan' '$(BUILD)-clang' '$(BUILD)-release'

packages-build:
	@scripts/install-packages build

packages-test:
	@scripts/install-packages build test

packages-demo:
	@scripts/install-packages build demo

packages-bench:
	@scripts/install-packages bench

packages-deb:
	@scripts/install-packages deb

packages-lint:
	@scripts/install-packages lint

.PHONY: all check demo sanitize tsan soak tidy bench seccomp-audit format-check format deb install clean \
	packages-build packages-test packages-demo packages-bench packages-deb packages-lint
