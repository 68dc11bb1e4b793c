# Short names for what is done often. README's section Tests sets up .venv.
PYTHON = .venv/bin/python
RUNS = runs

.PHONY: test test-fast lint types check docs-figures

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

# The pictures of docs, from the runs that docs/measured.md tells the commands of:
# make docs-figures RUNS=DIR
FIGURES = rankings survival ranks regression study_cpu
docs-figures: $(FIGURES:%=docs/%.png)

docs/rankings.png: $(RUNS)/rankings/rankings.png
docs/survival.png: $(RUNS)/analyze/plots/survival.png
docs/ranks.png: $(RUNS)/analyze/plots/ranks.png
docs/regression.png: $(RUNS)/analyze/plots/regression_spearman.png
docs/study_cpu.png: $(RUNS)/study/study.png

docs/%.png:
	cp $< $@
