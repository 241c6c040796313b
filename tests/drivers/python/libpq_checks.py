"""libpq 18 with what older ones lack: TLS from the first byte, protocol 3.2, cancels through TLS.

Arguments: port, user, password, file of the authority.
"""

import sys
import threading

import psycopg
from psycopg import errors

PORT, USER, PASSWORD, CA = sys.argv[1:]

WAYS = [
    {"sslmode": "disable", "max_protocol_version": "3.0"},
    {"sslmode": "disable", "min_protocol_version": "3.2", "max_protocol_version": "3.2"},
    {"sslmode": "verify-full", "max_protocol_version": "latest"},
    {"sslmode": "require", "sslnegotiation": "direct"},
    {"sslmode": "verify-full", "sslnegotiation": "direct", "min_protocol_version": "3.2", "max_protocol_version": "3.2"},
]


def check(way):
    with psycopg.connect(
        host="127.0.0.1",
        port=PORT,
        user=USER,
        password=PASSWORD,
        dbname=USER,
        sslrootcert=CA,
        connect_timeout=15,
        autocommit=True,
        **way,
    ) as connection:
        failures = []

        def cancel():
            try:
                connection.cancel_safe()
            except Exception as error:  # noqa: BLE001: whatever it is, it is shown
                failures.append(error)

        canceller = threading.Timer(0.2, cancel)
        canceller.start()
        try:
            connection.execute("SELECT pg_sleep(60)")
            outcome = "was not cancelled"
        except errors.QueryCanceled:
            outcome = "cancelled"
        canceller.join()
        value = connection.execute("SELECT 'served'").fetchone()[0]
        version, tls = connection.pgconn.full_protocol_version, connection.pgconn.ssl_in_use
        print(" ".join(way.values()), "->", version, "tls" if tls else "plain", value, outcome, *failures)


for way in WAYS:
    check(way)
