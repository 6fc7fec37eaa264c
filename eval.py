"""`python eval.py …` is `d2s eval …`."""

import sys

from d2s.cli import run_module

if __name__ == "__main__":
    sys.exit(run_module("eval"))
