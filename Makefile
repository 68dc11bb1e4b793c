# Short names for what is done often. README's section Tests sets up .venv.
PYTHON = .venv/bin/python
RUNS = runs

.PHONY: test test-fast lint types check docs tables accelerators docs-figures

# All tests.
test:
	$(PYTHON) -m pytest -n 2 --dist loadfile

# The quicker tests of every folder.
test-fast:
	$(PYTHON) -m pytest -n 2 --dist loadfile -m "not slow"

lint:
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

types:
	$(PYTHON) -m pyright

# What must pass before a change lands.
check:
	.ci/run

# The site of docs, into site/, with the tables of settings and families of now. A dead link fails it.
docs:
	$(PYTHON) -m docs.settings_tables
	$(PYTHON) -m tests.helpers.families_table
	$(PYTHON) -m mkdocs build

# The tables whose results are kept in the repository, in README.md and docs/measured.md.
tables:
	$(PYTHON) -m docs.tables

# Compiles our programs for TPUs and an H100; a small part of it: PROGRAMS='decode 135m'.
AOT = .venv-aot
PROGRAMS =
accelerators: $(AOT)/bin/python
	$(AOT)/bin/python -m benchmarks.accelerators --results=$(RUNS)/accelerators --programs='$(PROGRAMS)'

$(AOT)/bin/python:
	python3 -m venv $(AOT)
	$(AOT)/bin/pip install -q -e '.[tpu-aot,gpu-aot]'

# The pictures of docs, from the runs that docs/measured.md tells the commands of:
# make docs-figures RUNS=DIR
FIGURES = rankings survival ranks regression study_cpu study_planted
docs-figures: $(FIGURES:%=docs/%.png)

docs/rankings.png: $(RUNS)/rankings/rankings.png
docs/survival.png: $(RUNS)/analyze/plots/survival.png
docs/ranks.png: $(RUNS)/analyze/plots/ranks.png
docs/regression.png: $(RUNS)/analyze/plots/regression_spearman.png
docs/study_cpu.png: $(RUNS)/study/study.png
docs/study_planted.png: $(RUNS)/planted/study.png

docs/%.png:
	cp $< $@
