"""What the failover checks of every Python driver share: the order of things.

Called as `SCRIPT URL HOW`. A case is a generator (an asynchronous one, for asynchronous drivers) that is given a connection of its
own, and yields what it waits for:

- APPLY: replay on the standby is paused. A COMMIT sent now with synchronous_commit = remote_apply is on the standby, and
  is not answered: in truth it is done.
- FROZEN: the primary stands still. What is sent now is not done; if only its postmaster is killed (HOW is `postmaster`), its
  server processes may still do it, and may say so.
- STRUCK: the primary is dead, and the standby is promoted.

The script says `ready` when all cases wait, and `sent` when those that send something have; the test tells it when to go on.
"""

import sys

URL, HOW = sys.argv[1:3]
APPLY, FROZEN, STRUCK = "apply", "frozen", "struck"
PHASES = [APPLY, FROZEN, STRUCK]


def say(word):
    print(word, flush=True)


def hear(word):
    heard = sys.stdin.readline().strip()
    assert heard == word, f"{heard!r} instead of {word!r}"
