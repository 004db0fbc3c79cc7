# The work is done by tools/bootstrap.py, which needs nothing but Python (and is what to call where there is no make).
# Another Python: make book PYTHON=python3.12
PYTHON ?= python3

.PHONY: help book test lab notebooks clean setup stranger
.DEFAULT_GOAL := help

help book test lab notebooks clean setup stranger:
	@command -v "$(PYTHON)" >/dev/null 2>&1 || { echo "Python not found: install Python 3.11 or later (command '$(PYTHON)'), or name yours: make $@ PYTHON=..." >&2; exit 1; }
	@"$(PYTHON)" tools/bootstrap.py $@ $(ARGS)
