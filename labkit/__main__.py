"""`python -m labkit` does what the command `labkit` does, for machines where the command is not on the path.

Nothing else: everything is in `labkit.cli`.
"""

import sys

from labkit.cli import main

if __name__ == "__main__":
    sys.exit(main())
