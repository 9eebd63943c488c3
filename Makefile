# make demo     set up, build, and run the main job on a real clip
# make test     set up and run every test
# make build    set up and build plugin and program
# make lint     formatting, clippy, documentation, dependencies
# make bench    the benchmarks
# make soak     a long run of every mode, shape change and restart: fails when memory grows (SOAK_ROUNDS=2000)
# make accuracy every detector and way of looking on the evaluation pictures, into docs/accuracy.md; needs ../shared
# make models   fp16 and int8 variants of the default model, and what each costs
# make test-tools  the tests of tools/ and of the Python in scripts/
# make install  PREFIX=/usr/local: plugin, program, ONNX Runtime and model
# make bundle   BUNDLE=retinaface-bundle BUNDLE_OPTIONS=: one folder that runs where nothing is installed;
#               `make bundle-test` makes it and runs it in an empty root
# make clean    what was built; `rm -r .fetch` for what was fetched

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
# Python of its own for tools/ and the tests of scripts/, made anew when what it asks for changes.
venv := $(fetch)/venv-variants
python := $(venv)/bin/python
# What the variants are compared on: the media, and the evaluation pictures where they are.
pictures := $(fetch)/media $(wildcard ../shared/eval/wider/images)

.PHONY: all setup build demo test soak test-tools lint deny bench accuracy models install bundle bundle-test clean

all: build

setup:
	@scripts/setup.sh

build: setup
	cargo build --release --locked --workspace
	@mkdir -p $(target)/plugins
	@ln -sf ../release/libgstretinaface.so $(target)/plugins/libgstretinaface.so

demo: build
	@rm -rf $(demo_out)
	scripts/until-end scripts/launch pipelines/annotate.launch INPUT=$(demo_clip) OUT=$(demo_out)
	@mkdir -p $(demo_out)/crops && mv $(demo_out)/crop-*.png $(demo_out)/crops/
	@echo
	@echo "The main job is done. Its results:"
	@echo "  annotated video  $(demo_out)/annotated.mp4"
	@echo "  aligned crops    $(demo_out)/crops/  ($$(ls $(demo_out)/crops | wc -l) PNG files of 112 x 112)"
	@echo "  face metadata    $(demo_out)/faces.jsonl  ($$(wc -l <$(demo_out)/faces.jsonl) frames)"
	@echo "Next: '. ./env.sh', then 'gst-inspect-1.0 retinaface', or a pipeline of README.md."

test: setup
	cargo test --locked --workspace
	cargo test --locked -p retinaface --features cuda-memory --lib cuda
	cargo test --locked -p gst-plugin-retinaface --features cuda-memory --test cuda_memory

SOAK_ROUNDS ?= 2000
soak: setup
	SOAK_ROUNDS=$(SOAK_ROUNDS) cargo test --locked -p gst-plugin-retinaface --test memory -- --nocapture

lint: deny
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	cargo clippy --locked --workspace --all-targets --features retinaface/cuda-memory,gst-plugin-retinaface/cuda-memory -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --document-private-items

deny:
	cargo deny --workspace --locked check bans licenses sources

# Peers have a throw-away environment of their own; QUICK=1: fewer rounds.
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
	@for kind in fp16 int8; do for folder in $(pictures); do echo; echo "$$folder:"; \
	  $(python) tools/variants/variants.py compare $(model) $(variants)/$(notdir $(basename $(model)))_$$kind.onnx $$folder || exit; done; done

accuracy: build $(venv)/.complete
	$(python) tools/accuracy/accuracy.py

test-tools: build $(venv)/.complete
	cd tools/variants && $(abspath $(python)) -m unittest
	cd tools/accuracy && $(abspath $(python)) -m unittest
	$(python) -m unittest discover -s scripts

install: build
	install -D -m 755 $(target)/release/libgstretinaface.so $(DESTDIR)$(PREFIX)/lib/gstreamer-1.0/libgstretinaface.so
	install -D -m 755 $(target)/release/retinaface $(DESTDIR)$(PREFIX)/bin/retinaface
	install -D -m 644 $(fetch)/onnxruntime/libonnxruntime.so.1 $(DESTDIR)$(PREFIX)/lib/retinaface/libonnxruntime.so.1
	@for set in $(notdir $(wildcard $(fetch)/onnxruntime-*)); do \
	  mkdir -p $(DESTDIR)$(PREFIX)/lib/retinaface && rm -rf $(DESTDIR)$(PREFIX)/lib/retinaface/$$set && \
	  cp -r $(fetch)/$$set $(DESTDIR)$(PREFIX)/lib/retinaface/ && echo "with $$set"; \
	done
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/retinaface $(fetch)/models/retinaface_mnet025.onnx
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/doc/retinaface LICENSE-MIT LICENSE-APACHE assets/LICENSES.md
	install -D -m 644 $(fetch)/models/LICENSE.retinaface_mnet025 $(DESTDIR)$(PREFIX)/share/doc/retinaface/LICENSE.model
	install -D -m 644 $(fetch)/onnxruntime/ThirdPartyNotices.txt $(DESTDIR)$(PREFIX)/share/doc/retinaface/ThirdPartyNotices.onnxruntime.txt
	@echo "Installed. Tell GStreamer: export GST_PLUGIN_PATH=$(PREFIX)/lib/gstreamer-1.0"

bundle: build
	scripts/bundle.sh $(BUNDLE_OPTIONS) $(BUNDLE)

bundle-test: bundle
	scripts/bundle-test.sh $(BUNDLE)

clean:
	cargo clean
	rm -rf $(demo_out) retinaface-bundle
