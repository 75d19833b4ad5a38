"""``python -m bi_harness.cli``: the command without the console script."""

import sys

from bi_harness.cli.main import main

sys.exit(main())
