"""`python -m node.cli` is `radmesh`."""

import sys

from node.cli.main import main

sys.exit(main())
