# Weirgate's two commands are `make serve` and `make test`. `make help` lists the rest.

CARGO ?= cargo
BIN := target/release/weirgate
PYTEST := .venv/test/bin/python -m pytest -p no:cacheprovider -rs

.PHONY: help serve build test lint unit integration setup setup-prove prove prove-parity prove-invariance \
        prove-quantization prove-gguf prove-throughput prove-clean prove-metrics prove-constrained prove-constrained-load \
        prove-maskbench prove-cuda-emulated prove-schemas prove-fuzz-grammar prove-lora prove-http prove-templates prove-image \
        prove-embeddings openapi bench-peer cuda-toolchain cuda-check gpu-bundle gpu-check gpu-sanitize gpu-soak

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 20

openapi: build ## openapi.json, from the handlers
	$(BIN) openapi >openapi.json

serve: build ## build and serve the demo model on port 3000 (MODEL_ID, PORT and TGI's other variables work)
	@exec $(BIN)

# All at once, always: built apart, they would have dependencies of different features, and everything would be built anew.
build: ## the binaries: target/release/weirgate, and weirgate-finetune and weirgate-benchmark beside it
	$(CARGO) build --release -p weirgate -p weirgate-benchmark -p weirgate-finetune

test: lint unit integration ## everything that is not a long proof; needs no GPU and no torch

lint: ## formatting and lints
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --workspace --all-targets -- -D warnings

unit: setup cuda-toolchain ## Rust tests; the CUDA kernels are compiled for every chip
	$(CARGO) test --release --workspace --no-fail-fast

integration: setup build ## the binaries under real clients
	$(PYTEST) integration-tests

setup:
	@tools/setup

cuda-toolchain: ## nvcc, into .cuda; builds that find it (or NVCC, CUDA_HOME, PATH) embed the CUDA kernels
	@tools/setup --cuda

setup-prove:
	@tools/setup --prove

prove: prove-parity prove-invariance prove-quantization prove-gguf prove-constrained prove-constrained-load prove-maskbench prove-schemas prove-lora prove-embeddings prove-finetune prove-http prove-residency prove-jobs prove-templates prove-throughput prove-metrics prove-image prove-clean ## all long proofs; results in docs/evidence

prove-parity: setup-prove ## logits and greedy tokens against transformers
	.venv/prove/bin/python tools/parity/prove.py

prove-invariance: ## the batch-invariance and cache tests at full length
	tools/prove/invariance.sh

prove-cuda-emulated: ## every CUDA kernel and the engine on the emulated GPU, the sampler on 10,000 draws
	tools/prove/cuda_emulated.sh

prove-quantization: build setup ## perplexity and logits of every quantization
	tools/prove/quantization.sh

prove-gguf: build ## logits of every GGUF type beside llama.cpp's
	@tools/setup --peer
	tools/prove/gguf.sh

prove-throughput: build setup setup-prove ## tokens per second against transformers
	.venv/prove/bin/python tools/bench/spine.py

prove-metrics: build setup ## both dashboards against Prometheus, a minute under load
	tools/prove/metrics.sh

prove-http: build setup ## thousands of generated requests against the documented API
	tools/prove/http.sh

prove-constrained: build setup setup-prove ## 4,000 generations under grammars and tools from random weights
	tools/prove/constrained.sh

prove-constrained-load: build setup setup-prove ## inter-token times of free streams beside constrained ones
	tools/prove/constrained_load.sh

prove-schemas: setup ## JSON-Schema-Test-Suite by keyword
	tools/prove/schemas.sh

prove-fuzz-grammar: ## schemas, regular expressions and Lark grammars under libFuzzer (a nightly compiler)
	tools/prove/fuzz_grammar.sh

.PHONY: prove-fuzz-gguf
prove-fuzz-gguf: ## GGUF files under libFuzzer for an hour (a nightly compiler)
	tools/prove/fuzz_gguf.sh

.PHONY: prove-fuzz-store prove-residency
prove-fuzz-store: ## Modelfiles, manifests and Go templates under libFuzzer (a nightly compiler)
	tools/prove/fuzz_store.sh

prove-residency: build setup ## several models under load, and a server killed while it writes models
	tools/prove/residency.sh

.PHONY: prove-jobs
prove-jobs: build setup ## a server killed a hundred times while it downloads, trains and deploys, with SQLite and PostgreSQL; a gigabyte and 100,000 jobs; S3
	tools/prove/jobs.sh

prove-maskbench: setup ## JSON Schema coverage and speed: MaskBench with 32k and 128k tokens
	tools/prove/maskbench.sh

.PHONY: prove-finetune
prove-finetune: build setup setup-prove ## LoRA training against peft and transformers; 200 pairs learned by heart
	tools/prove/finetune.sh

.PHONY: finetune-cuda
finetune-cuda: ## the training worker for NVIDIA GPUs, target/cuda/release/weirgate-finetune; needs no GPU itself
	tools/finetune/cuda.sh

prove-lora: build setup setup-prove ## 64 requests over 16 adapters in one batch: tokens and throughput
	tools/prove/lora.sh

prove-templates: build setup-prove ## chat templates against transformers
	.venv/prove/bin/python tools/templates/prove.py

prove-embeddings: build setup-prove ## a real MiniLM against sentence-transformers: vectors and speed
	.venv/prove/bin/python tools/embeddings/prove.py

.PHONY: prove-cpu
prove-cpu: build setup setup-prove ## overhead, memory, start and prompts on this machine, after `make bench-peer`; into docs/benchmarks
	.venv/prove/bin/python tools/bench/cpu/bench.py $(ARGS)

.PHONY: prove-arm
prove-arm: ## the CPU device on 64-bit Arm, under QEMU
	tools/prove/arm.sh

prove-image: ## the container images without a container engine: every target started as its platforms do (root)
	python3 tools/image/prove.py

bench-peer: build ## our CPU kernels and server against llama.cpp, which it builds; result in docs/benchmarks (ARGS=--quick)
	@tools/setup --peer
	.venv/peer/bin/python tools/bench/peer/bench.py $(ARGS)

cuda-check: cuda-toolchain ## the CUDA kernels compile, by nvcc and by NVRTC, without unexpected spills
	CI=true $(CARGO) test --release -p weirgate-kernels --test cuda_images

gpu-bundle: cuda-toolchain ## out/gpu-bundle: all that the next three need on a host with a GPU; needs none itself
	python3 tools/gpu/bundle.py

gpu-check: ## on a GPU: the bundle's ops against references, CUDA against the CPU, figures into docs/benchmarks
	python3 out/gpu-bundle/check.py --out docs/benchmarks $(ARGS)

gpu-sanitize: ## on a GPU: memcheck and racecheck over the bundle's op tests
	python3 out/gpu-bundle/sanitize.py

gpu-soak: ## on a GPU: nine minutes of mixed load
	python3 out/gpu-bundle/soak.py

prove-clean: ## a clean clone, as a new user would
	tools/prove/clean_clone.sh
