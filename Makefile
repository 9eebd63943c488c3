# make demo        set up, build, and run the example pipeline on a video clip
# make build       set up and build the plugin and the program (FEATURES=)
# make examples    build the examples in C and Rust, and the virtual environment of the one in Python
# make test        set up and run all tests (make cargo-test ARGS="--test core parity": some of them)
# make test-tools  run the tests of tools/ and scripts/
# make test-roots  run set-up, demo and tests in bare Debian 12 and 13 roots; needs root permissions
# make lint        check formatting, clippy, documentation and dependencies
# make docs        regenerate docs/elements.md and tests/fixtures/elements.txt
# make bench       run the benchmarks
# make soak        run every mode, shape change and restart for a long time and measure memory (SOAK_ROUNDS=2000)
# make fuzz        run each fuzz target for FUZZ_SECONDS=600 with cargo-fuzz (FUZZ_TARGETS="frame model")
# make accuracy    evaluate every detector and the alignment of its crops, and write docs/accuracy.md
# make models      make fp16 and int8 variants of the default model and compare them with it
# make gpu-check   check and measure the execution providers of this machine (OUT=gpu-check GPU_CHECK_OPTIONS=)
# make install     install plugin, program, ONNX Runtime and model (PREFIX=/usr/local)
# make bundle      make a directory that runs without installed packages (BUNDLE=retinaface-bundle BUNDLE_OPTIONS=)
# make bundle-test make the bundle and run it in an empty root
# make clean       delete build outputs; `rm -r .fetch` deletes downloads

SHELL := /bin/bash
PREFIX ?= /usr/local
DESTDIR ?=
target := $(or $(CARGO_TARGET_DIR),target)
fetch := .fetch
demo_clip := $(fetch)/media/WolfgangLanger_Pexels.mp4
demo_out := demo-out
BUNDLE ?= retinaface-bundle
BUNDLE_OPTIONS ?=
model := $(fetch)/models/retinaface_mnet025.onnx
variants := $(fetch)/models/variants
# Virtual environment of tools/ and of the tests of scripts/; rebuilt when the requirements change.
venv := $(fetch)/venv-variants
python := $(venv)/bin/python
# Data that tests and evaluation use where it exists.
export RETINAFACE_TEST_DATA ?= $(abspath ../shared)
# Images on which the variants are compared.
images := $(fetch)/media $(wildcard $(RETINAFACE_TEST_DATA)/eval/wider/images)
# Virtual environment of examples/recogniser.py. PyGObject is installed for the Python of the system,
# which need not be the first one on PATH.
examples := $(target)/examples
examples_venv := $(examples)/venv
system_python := $(firstword $(wildcard /usr/bin/python3) python3)
# Links to the Rust that scripts/setup.sh selected, where the one on PATH is too old.
export PATH := $(CURDIR)/$(fetch)/rust/bin:$(PATH)
# One build of the dependencies serves the release build and the tests.
features := --features gst-plugin-retinaface/cuda-memory
cargo_test := cargo test --release --locked --config .cargo/test.toml --workspace $(features)
# Features of the build: gst-plugin-retinaface/cuda-memory.
FEATURES ?=

.PHONY: all setup build demo gpu-check examples test cargo-test test-binaries soak fuzz test-tools test-roots lint docs deny bench accuracy models install bundle bundle-test clean

all: build

setup:
	@scripts/setup.sh

build: setup
	cargo build --release --locked --workspace --exclude retinaface-fuzz $(if $(FEATURES),--features $(FEATURES))
	@# Copies, because `make test` writes builds with debug assertions to $(target)/release.
	@install -D $(target)/release/libgstretinaface.so $(target)/plugins/libgstretinaface.so
	@install -D $(target)/release/retinaface $(target)/bin/retinaface
	@install -D $(target)/release/retinaface-gpu-check $(target)/bin/retinaface-gpu-check

OUT ?= gpu-check
GPU_CHECK_OPTIONS ?=
frames := $(target)/frames_640x360.nv12
$(frames): scripts/make-frames | setup
	scripts/make-frames $(target)

gpu-check: build $(frames)
	RETINAFACE_RUNTIMES=$(CURDIR)/$(fetch) RETINAFACE_MODEL=$(CURDIR)/$(model) \
	  $(target)/bin/retinaface-gpu-check $(OUT) --frames $(frames) $(GPU_CHECK_OPTIONS) \
	  $(addprefix --fp16-model ,$(wildcard $(variants)/retinaface_mnet025_fp16.onnx))

demo: build
	@rm -rf $(demo_out)
	scripts/until-end scripts/launch pipelines/annotate.launch INPUT=$(demo_clip) OUT=$(demo_out)
	@mkdir -p $(demo_out)/crops && mv $(demo_out)/crop-*.png $(demo_out)/crops/
	@echo
	@echo "Results:"
	@echo "  annotated video  $(demo_out)/annotated.mp4"
	@echo "  aligned crops    $(demo_out)/crops/  ($$(ls $(demo_out)/crops | wc -l) PNG files of 112 x 112)"
	@echo "  face metadata    $(demo_out)/faces.jsonl  ($$(grep -c retinaface.frame/1 $(demo_out)/faces.jsonl) frames)"
	@echo "Next: '. ./env.sh', then 'gst-inspect-1.0 retinaface', or a pipeline of README.md."

$(examples_venv)/.complete: examples/requirements.txt
	@rm -rf $(examples_venv)
	$(system_python) -m venv --system-site-packages $(examples_venv)
	$(examples_venv)/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: -r $<
	@touch $@

examples: build $(examples_venv)/.complete
	cargo build --release --locked --workspace $(if $(FEATURES),--features $(FEATURES)) --example crops
	@install -D $(target)/release/examples/crops $(examples)/crops-rust
	$(CC) -Wall -Wextra examples/crops.c -o $(examples)/crops-c \
	  $$(pkg-config --cflags --libs gstreamer-1.0 gstreamer-app-1.0)
	@echo "Next: '. ./env.sh', then '$(examples_venv)/bin/python examples/recogniser.py --help' or '$(examples)/crops-c'."

test: setup $(examples_venv)/.complete
	$(cargo_test) --no-fail-fast

# Some of the tests: make cargo-test ARGS="--test elements facealign"
cargo-test: setup $(examples_venv)/.complete
	$(cargo_test) $(ARGS)

# Prints the test binaries as JSON, for .ci/run.
test-binaries: setup
	@$(cargo_test) --no-run --message-format=json-render-diagnostics

SOAK_ROUNDS ?= 2000
soak: setup
	SOAK_ROUNDS=$(SOAK_ROUNDS) $(cargo_test) --test memory -- --nocapture

# Nightly options of the stable compiler, for AddressSanitizer. New inputs stay in $(target)/fuzz.
FUZZ_SECONDS ?= 600
FUZZ_TARGETS ?= $(patsubst fuzz/fuzz_targets/%.rs,%,$(wildcard fuzz/fuzz_targets/*.rs))
seeds_model := tests/fixtures/models
seeds_model_graph := tests/fixtures/models fuzz/corpus/model
fuzz: export RUSTC_BOOTSTRAP := 1
fuzz: export ORT_DYLIB_PATH := $(CURDIR)/$(fetch)/onnxruntime/libonnxruntime.so.1
fuzz: export ASAN_OPTIONS := detect_leaks=0:allocator_may_return_null=1
fuzz: export PATH := $(CURDIR)/$(fetch)/tools/bin:$(PATH)
fuzz: setup
	@cargo fuzz --version >/dev/null 2>&1 || cargo install --locked --root $(fetch)/tools cargo-fuzz
	@mkdir -p $(addprefix $(target)/fuzz/,$(FUZZ_TARGETS))
	$(foreach name,$(FUZZ_TARGETS),cargo fuzz run --features libfuzzer $(name) $(target)/fuzz/$(name) \
	  $(wildcard fuzz/corpus/$(name)) $(seeds_$(name)) -- -max_total_time=$(FUZZ_SECONDS) -timeout=60 -rss_limit_mb=4096 &&) true

docs: setup
	UPDATE_SNAPSHOTS=1 $(cargo_test) --test elements surface

lint: deny
	cargo fmt --all --check
	cargo clippy --release --locked --workspace --all-targets -- -D warnings
	cargo clippy --release --locked --workspace --all-targets $(features) -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --release --locked --workspace --no-deps --document-private-items

deny:
	cargo deny --workspace --locked check bans licenses sources

# Virtual environments of the other projects that are measured; QUICK=1: fewer rounds.
bench_venv := $(target)/bench/venv
export QUICK

$(bench_venv)/ready: benches/peers/requirements.txt
$(bench_venv)-openvino/ready: benches/peers/requirements-openvino.txt
$(bench_venv)/ready $(bench_venv)-openvino/ready:
	rm -rf $(@D) && python3 -m venv $(@D)
	$(@D)/bin/pip install --quiet --disable-pip-version-check --no-deps -r $<
	touch $@

bench: build $(bench_venv)/ready $(bench_venv)-openvino/ready
	-scripts/setup.sh --openvino
	rm -f $(target)/bench/*.json $(target)/bench/*.png
	cargo bench --locked --workspace --bench stages --bench element -- --noplot
	$(bench_venv)/bin/python benches/peers/peers.py
	$(bench_venv)/bin/python benches/peers/files.py
	$(bench_venv)/bin/python benches/peers/scaling.py
	$(bench_venv)/bin/python benches/report.py $(target)

$(venv)/.complete: tools/variants/requirements.txt
	@rm -rf $(venv)
	python3 -m venv $(venv)
	$(python) -m pip install --quiet --disable-pip-version-check --only-binary=:all: -r tools/variants/requirements.txt
	@touch $@

models: build $(venv)/.complete
	$(python) tools/variants/variants.py make $(model) $(variants) --calibration $(fetch)/media
	@for kind in fp16 int8; do for directory in $(images); do echo; echo "$$directory:"; \
	  $(python) tools/variants/variants.py compare $(model) $(variants)/$(notdir $(basename $(model)))_$$kind.onnx $$directory || exit; done; done

accuracy: build $(venv)/.complete
	$(python) tools/accuracy/accuracy.py
	$(python) tools/accuracy/alignment.py

test-roots:
	scripts/test-roots

test-tools: build $(venv)/.complete
	cd tools/variants && $(abspath $(python)) -m unittest
	cd tools/accuracy && $(abspath $(python)) -m unittest
	$(python) -m unittest discover -s scripts

install: build
	install -D -m 755 $(target)/release/libgstretinaface.so $(DESTDIR)$(PREFIX)/lib/gstreamer-1.0/libgstretinaface.so
	install -D -m 755 $(target)/release/retinaface $(DESTDIR)$(PREFIX)/bin/retinaface
	install -D -m 644 $(fetch)/onnxruntime/libonnxruntime.so.1 $(DESTDIR)$(PREFIX)/lib/retinaface/libonnxruntime.so.1
	@for build in $(notdir $(wildcard $(fetch)/onnxruntime-cuda)); do \
	  mkdir -p $(DESTDIR)$(PREFIX)/lib/retinaface && rm -rf $(DESTDIR)$(PREFIX)/lib/retinaface/$$build && \
	  cp -r $(fetch)/$$build $(DESTDIR)$(PREFIX)/lib/retinaface/ && echo "with $$build"; \
	done
	@for provider in $(notdir $(wildcard $(fetch)/providers/*)); do \
	  mkdir -p $(DESTDIR)$(PREFIX)/lib/retinaface/providers && \
	  rm -rf $(DESTDIR)$(PREFIX)/lib/retinaface/providers/$$provider && \
	  cp -r $(fetch)/providers/$$provider $(DESTDIR)$(PREFIX)/lib/retinaface/providers/ && echo "with $$provider"; \
	done
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/retinaface $(fetch)/models/retinaface_mnet025.onnx
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/doc/retinaface LICENSE-MIT LICENSE-APACHE assets/LICENSES.md
	install -D -m 644 $(fetch)/models/LICENSE.retinaface_mnet025 $(DESTDIR)$(PREFIX)/share/doc/retinaface/LICENSE.model
	install -D -m 644 $(fetch)/onnxruntime/ThirdPartyNotices.txt $(DESTDIR)$(PREFIX)/share/doc/retinaface/ThirdPartyNotices.onnxruntime.txt
	@echo "Installed. Set this for GStreamer: export GST_PLUGIN_PATH=$(PREFIX)/lib/gstreamer-1.0"

bundle: build
	scripts/bundle.sh $(BUNDLE_OPTIONS) $(BUNDLE)

bundle-test: bundle
	scripts/bundle-test.sh $(BUNDLE)

clean:
	cargo clean
	rm -rf $(demo_out) retinaface-bundle
