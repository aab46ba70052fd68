"""``python -m polymask``: the command line."""

import sys

from polymask.cli import main

sys.exit(main())
