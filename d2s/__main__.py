"""`python -m d2s COMMAND …` is `d2s COMMAND …`."""

import sys

from d2s.cli import main

if __name__ == "__main__":
    sys.exit(main())
