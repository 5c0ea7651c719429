# Two commands on a fresh machine (python3, git, make, a compiler): `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
RUN := $(BIN)/accelerate launch --mixed_precision no experiments/train.py --dataset sample

.PHONY: demo test lint types install peers clean

demo: runs/sample-s1/result.json runs/sample-id_only-s1/result.json
	$(BIN)/python experiments/report.py runs/sample-id_only-s1 runs/sample-s1

test: lint types
	$(BIN)/python -m pytest

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/typos
	$(BIN)/lint-imports

types: .venv/installed
	$(BIN)/basedpyright

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/python -m odmt.encoders.torchvision_mend  # `accelerate` itself imports timm, and that torchvision
	touch $@

# The sample: a small release in MicroLens' own layout, then the same adapter and encoders as for real data.
data/raw/sample: | .venv/installed
	$(BIN)/python -m data_adapters sample --out $@ --overwrite

data/sample/dataset.yaml: | data/raw/sample
	$(BIN)/python -m data_adapters microlens --raw data/raw/sample --out data/sample --overwrite

data/sample/features/encoded: | data/sample/dataset.yaml
	$(BIN)/python -m odmt.encoders data/sample --modality text --encoder 'tfidf(dim=64)'
	$(BIN)/python -m odmt.encoders data/sample --modality image --encoder 'histogram(bins=8)'
	touch $@

runs/sample-s1/result.json: | data/sample/features/encoded
	$(RUN) --resume

runs/sample-id_only-s1/result.json: | data/sample/features/encoded
	$(RUN) --ablation id_only --train.lr 1e-2 --resume  # the best on validation of 1e-3 to 2e-2: a rival of its own tuning

# Other libraries, to compare with: experiments/bench.py --suite peers. Each has an environment of its own (numpy<2).
PEERS ?= .peers

peers: $(PEERS)/recbole/installed $(PEERS)/rectools/installed

$(PEERS)/%/installed: experiments/benchmarks/constraints-%.txt pyproject.toml
	$(PYTHON) -m venv --clear $(PEERS)/$*
	$(PYTHON) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["peer-$*"], sep="\n")' > $(PEERS)/$*/requirements.txt
	$(PEERS)/$*/bin/python -m pip install --quiet --disable-pip-version-check -c $< -r $(PEERS)/$*/requirements.txt
	touch $@

clean:
	rm -rf data/raw/sample data/sample runs/sample-s1 runs/sample-id_only-s1
