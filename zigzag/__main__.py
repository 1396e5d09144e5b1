"""``python -m zigzag``: the command line."""

import sys

from zigzag.cli import main

if __name__ == "__main__":
    sys.exit(main())
