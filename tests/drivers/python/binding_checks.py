"""libpq's channel_binding=require, which refuses a server that cannot be bound to. Called as `SCRIPT CONNINFO [CONNINFO…]`."""

import sys

import psycopg

version = psycopg.pq.version()
assert version >= 180000, f"libpq {version} is older than what the checks were written for"
for conninfo in sys.argv[1:]:
    try:
        with psycopg.connect(conninfo, connect_timeout=15) as connection:
            print("connected", *connection.execute("SELECT current_user::text").fetchone(), flush=True)
    except psycopg.OperationalError as error:
        print("refused", str(error).splitlines()[-1], flush=True)
