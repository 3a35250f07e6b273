"""`python -m protocol.verify`: the same as `radmesh-verify`."""

import sys

from protocol.verify.command import main

if __name__ == "__main__":
    sys.exit(main())
