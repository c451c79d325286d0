"""``python -m pipeline`` is the ``surtitle`` command."""

import sys

from pipeline.cli import main

sys.exit(main())
