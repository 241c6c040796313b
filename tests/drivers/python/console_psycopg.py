"""psycopg at the console, with its default settings: the extended protocol, results as text and in binary."""

import os

import psycopg
from psycopg.rows import dict_row

with psycopg.connect(os.environ["URL"], autocommit=True, row_factory=dict_row) as connection:
    assert connection.info.server_version == 12502, connection.info.server_version
    for _ in range(10):  # the sixth time it is prepared under a name
        assert connection.execute("SHOW POOLS").fetchall()[-1]["database"] == "pgbouncer"
    text = connection.execute("SHOW STATS").fetchall()
    binary = connection.execute("SHOW STATS", binary=True).fetchall()
    assert [row.keys() for row in text] == [row.keys() for row in binary]
    assert int(binary[-1]["total_query_count"]) > 5
    assert connection.execute("SHOW LISTS", binary=True).fetchone()["list"] == "databases"
    for probe in ["SELECT version()", "SELECT current_schema()", "SHOW TRANSACTION ISOLATION LEVEL"]:
        try:
            connection.execute(probe)
            raise SystemExit(f"{probe} was answered")
        except psycopg.errors.SyntaxError as error:
            assert error.sqlstate == "42601"
    with connection.cursor() as cursor:
        cursor.execute("SHOW standard_conforming_strings")
        assert cursor.fetchone() == {"standard_conforming_strings": "on"}
