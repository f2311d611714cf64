# make atlas    measure, ablate and name every head of a model, into ./atlas-MODEL/ (plain install, no torch)
#               ATLAS="minilm-l6 --out DIR" chooses another model and directory
# make test     everything CI runs: ruff, pyright, pytest (with the notebooks and the README's blocks)
# make results  regenerate the committed results/ (hours; installs torch, TransformerLens and nnsight for speed)
#               TREEBANK, COREFERENCE: files in CoNLL-U (English EWT and GUM, of universaldependencies.org)
# make check-results  make those results again that take minutes, and compare them with the committed ones
# make test-peers  the pages for people who come from other packages, beside those (installs them)
# make docs     the documentation's site, in site/ (open site/index.html)
# make env      only the plain install
# make clean    remove environment and caches; keep atlases and results/

PYTHON ?= python3
ATLAS ?=
PYTEST ?= -q -n 2
# Data that is not committed; the docstrings of the experiments say where it comes from.
TREEBANK ?= data/en_ewt-ud-dev.conllu
COREFERENCE ?= data/en_gum-ud-dev.conllu
FUNCTION_VECTORS ?= data/function_vectors
MINIMAL_PAIRS ?= data/blimp
SENTENCE_POLARITY ?= data/sentence_polarity
ZUCO ?= data/zuco
NATURAL_STORIES ?= data/natural_stories
EXPERIMENTS := agreement_flow attribution_agreement coverage factors head_measures induction_phase_change ioi \
	markov_phases overfitting_heads precision pruned_speed specialisation_power speed_profile translation_heads vision_heads \
	whisper_alignment

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet

.PHONY: atlas docs test test-peers results check-results env clean
.DELETE_ON_ERROR:

atlas: .venv/.plain
	$(BIN)/jaxheads atlas $(ATLAS)

test: export JAX_PLATFORMS := cpu
test: export HF_HUB_OFFLINE := 1
test: export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1
test: .venv/.test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/python -m pytest $(PYTEST)

test-peers: export JAX_PLATFORMS := cpu
test-peers: export HF_HUB_OFFLINE := 1
test-peers: .venv/.peers
	$(BIN)/python -m pytest $(PYTEST) tests/peers

# The commands that README names, one after the other: speed measurements need the machine for themselves.
results: .venv/.peers
	$(BIN)/jaxheads atlas smollm2-135m --out results/atlas-smollm2-135m
	$(BIN)/jaxheads atlas minilm-l6 --out results/atlas-minilm-l6
	set -e; for name in $(EXPERIMENTS); do $(BIN)/python -m experiments.$$name; done
	$(BIN)/python -m experiments.head_probes --treebank $(TREEBANK) --entities $(COREFERENCE) \
	  --sentences 600
	set -e; for name in syntax_heads head_parsers; do $(BIN)/python -m experiments.$$name --treebank $(TREEBANK); done
	$(BIN)/python -m experiments.syntax_heads --treebank $(TREEBANK) --model smollm2-135m --sentences 400 \
	  --fewest 20 --out results/syntax-heads-smollm2-135m
	$(BIN)/python -m experiments.syntax_heads --treebank $(TREEBANK) --model bert-mlm-tiny --sentences 1000 \
	  --fewest 30 --out results/syntax-heads-bert-mlm-tiny
	$(BIN)/python -m experiments.entity_heads --treebank $(COREFERENCE)
	$(BIN)/python -m experiments.genres --treebank $(COREFERENCE)
	$(BIN)/python -m experiments.genres --treebank $(COREFERENCE) --model smollm2-135m --sentences 400 \
	  --fewest 20 --out results/genres-smollm2-135m
	$(BIN)/python -m experiments.structure --treebank $(TREEBANK)
	$(BIN)/python -m experiments.function_vectors --tasks $(FUNCTION_VECTORS)
	$(BIN)/python -m experiments.agreement_heads --pairs $(MINIMAL_PAIRS)
	$(BIN)/python -m experiments.sentiment_heads --positive $(SENTENCE_POLARITY)/rt-polarity.pos \
	  --negative $(SENTENCE_POLARITY)/rt-polarity.neg
	$(BIN)/python -m experiments.fine_tuning --positive $(SENTENCE_POLARITY)/rt-polarity.pos \
	  --negative $(SENTENCE_POLARITY)/rt-polarity.neg
	$(BIN)/python -m experiments.speed --prompts 4 --pairs 2 --repeats 1
	$(BIN)/python -m experiments.speed --works forward measure forward_long measure_long --no-curves \
	  --out results/speed-measures
	$(BIN)/python -m experiments.gaze --text $(ZUCO)/zuco_sentences.txt --fixations $(ZUCO)/zuco_relfix_averages.txt
	$(BIN)/python -m experiments.reading_times --times $(NATURAL_STORIES)/processed_wordinfo.tsv
	$(BIN)/python -m tests.models.parity_table
	$(PIP) --no-deps --target .venv/libtpu libtpu==0.0.42
	PYTHONPATH=.venv/libtpu $(BIN)/python -m experiments.accelerators --machines v5e-8 \
	  --models "GPT-2 small" "SmolLM2 135M" "Llama 1.1B" "Llama 8B" --works "ablate z" --no-cpu
	PYTHONPATH=.venv/libtpu $(BIN)/python -m experiments.accelerators --machines v5p-8 v6e-8 \
	  --models "GPT-2 small" "Llama 1.1B" --works "ablate z" --arithmetics bfloat16 --no-cpu \
	  --out results/accelerators-chips

check-results: export JAX_PLATFORMS := cpu
check-results: .venv/.all
	$(BIN)/python -m tests.check_results

docs: export NO_MKDOCS_2_WARNING := 1
docs: .venv/.docs
	$(BIN)/mkdocs build --quiet
	@echo "open site/index.html"

env: .venv/.plain

clean:
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis build dist site
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "jaxheads needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 …"; exit 1; }
	$(PYTHON) -m venv .venv

# Stamps: an environment is installed again only when pyproject.toml has changed.
.venv/.plain: pyproject.toml | .venv/bin/python
	$(PIP) --editable .
	@touch $@

.venv/.all: pyproject.toml | .venv/bin/python
	$(PIP) --editable '.[all]'
	@touch .venv/.plain $@

.venv/.docs: pyproject.toml | .venv/bin/python
	$(PIP) --editable '.[docs]'
	@touch .venv/.plain $@

.venv/.test: pyproject.toml | .venv/bin/python
	$(PIP) --editable '.[test]'
	@touch .venv/.plain .venv/.all .venv/.docs $@

.venv/.peers: pyproject.toml | .venv/bin/python
	$(PIP) --editable '.[test,peers]'
	@touch .venv/.plain .venv/.all .venv/.docs .venv/.test $@
