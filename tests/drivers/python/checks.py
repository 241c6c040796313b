"""What the checks of every Python driver share: they run in order, and each says in one line what it saw.

Called as `SCRIPT URL SCHEMA`. The lines hold nothing that depends on where the URL leads, so that the run against
PostgreSQL and the run through howdah can be compared; a check that fails ends the script with its traceback.
"""

import sys
import time

URL, SCHEMA = sys.argv[1:3]
SECONDS_MAX = 60

_begun = time.monotonic()


def saw(check, *facts):
    """Reports a check that has passed, with what it saw."""
    assert time.monotonic() - _begun < SECONDS_MAX, f"{check}: the checks take too long"
    print(f"{check}:", *facts, flush=True)
