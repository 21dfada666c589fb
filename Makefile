# A thin front for CMake (CMakePresets.json): every target is one or two commands that can be typed by hand.
# Output goes to build/<preset>/; the program is build/release/fastkernels.

.PHONY: all build demo test bench asan cuda fuzz format check install clean help setup
MAKEFLAGS += --no-print-directory
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
PREFIX ?= /usr/local
FUZZ_SECONDS ?= 60
SOURCES = $$(git ls-files '*.c' '*.h' '*.cu')

all: build

help:
	@echo 'make demo      install what is missing, build, capture a small Llama, judge the example candidates'
	@echo 'make test      install what is missing, build, run every test'
	@echo 'make build     the program and the libraries, optimised: build/release/'
	@echo 'make bench     judge the example candidates with the longer, quieter settings'
	@echo 'make asan      the tests under AddressSanitizer and UndefinedBehaviorSanitizer: build/asan/'
	@echo 'make cuda      build and require the CUDA code: build/cuda/ (needs nvcc, no GPU)'
	@echo 'make fuzz      every fuzz target for FUZZ_SECONDS=$(FUZZ_SECONDS) (needs clang)'
	@echo 'make format    clang-format over every C and CUDA file'
	@echo 'make check     formatting, cppcheck, -Werror builds by gcc and clang'
	@echo 'make install   into PREFIX=$(PREFIX)'
	@echo 'make clean     remove build/'

setup:
	@bash tools/setup.sh

build/%/build.ninja: CMakeLists.txt CMakePresets.json
	@cmake --preset $* >/dev/null

build: setup build/release/build.ninja
	@cmake --build build/release -j $(JOBS)

demo: build
	@bash tools/demo.sh

test: build
	@bash tools/setup.sh test
	@bash tools/test.sh build/release

bench: build
	@bash tools/demo.sh --full

asan: setup build/asan/build.ninja
	@cmake --build build/asan -j $(JOBS)
	@bash tools/test.sh build/asan

cuda: setup build/cuda/build.ninja
	@cmake --build build/cuda -j $(JOBS)

fuzz: setup build/fuzz/build.ninja
	@cmake --build build/fuzz -j $(JOBS) --target fuzzers
	@bash tools/fuzz.sh build/fuzz $(FUZZ_SECONDS)

format:
	@clang-format -i $(SOURCES)

check: setup build/release/build.ninja build/clang/build.ninja
	clang-format --dry-run -Werror $(SOURCES)
	cppcheck --quiet --error-exitcode=1 --std=c11 --enable=warning,portability --inline-suppr --max-configs=2 \
	  --suppressions-list=cmake/cppcheck.txt -j $(JOBS) -I include -I src -I build/release/generated src tools kernels blocks models
	cmake --build build/release -j $(JOBS)
	cmake --build build/clang -j $(JOBS)

install: build
	cmake --install build/release --prefix $(PREFIX)

clean:
	rm -rf build
