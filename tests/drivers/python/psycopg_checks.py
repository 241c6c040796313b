"""psycopg 3 with its default settings, sync and async."""

import asyncio
import datetime
import ipaddress
import threading
import time
import uuid
from decimal import Decimal

import psycopg
import psycopg_pool
from psycopg import errors
from psycopg.types.composite import CompositeInfo
from psycopg.types.json import Json, Jsonb
from psycopg.types.multirange import Multirange
from psycopg.types.range import Range

from checks import SCHEMA, SECONDS_MAX, URL, saw


def connect(**options):
    return psycopg.connect(URL, connect_timeout=15, **options)


def prepares_by_itself_after_five_executions():
    """The default prepare_threshold: the sixth execution is a Parse under a name, later ones only Bind it."""
    with connect() as one, connect() as two:
        for i in range(60):
            for connection in (one, two):  # both call their statement _pg3_0
                statement = "SELECT %s::int + 1" if connection is one else "SELECT %s::int + 1000"
                (value,) = connection.execute(statement, [i]).fetchone()
                assert value == i + (1 if connection is one else 1000), value
                connection.commit()
        names = [s for s in one._prepared._names.values()]
        saw("prepare_threshold", names)


def forgets_its_oldest_statements():
    """The default prepared_max of 100: older names are closed."""
    with connect(autocommit=True) as connection:
        for i in range(130):
            for _ in range(7):
                assert connection.execute(f"SELECT {i} + %s::int", [1]).fetchone() == (i + 1,)
        saw("prepared_max", len(connection._prepared._names))


def discards_its_statements_after_a_rollback_and_ddl():
    """psycopg runs DEALLOCATE ALL then; the same statements must work again afterwards."""
    with connect() as connection, connect() as other:
        for round in range(3):
            for c in (connection, other):
                for i in range(8):
                    assert c.execute("SELECT %s::text || 'x'", [str(i)]).fetchone() == (f"{i}x",)
                c.commit()
            connection.rollback()
            connection.execute("SELECT 1")
            connection.rollback()
            connection.execute(f"CREATE TABLE {SCHEMA}.discard (i int)")
            connection.execute(f"DROP TABLE {SCHEMA}.discard")
            connection.commit()
        saw("deallocate", "fine")


def transactions_savepoints_and_errors():
    with connect() as connection:
        connection.execute(f"CREATE TABLE {SCHEMA}.tx (i int PRIMARY KEY)")
        connection.commit()
        with connection.transaction():
            connection.execute(f"INSERT INTO {SCHEMA}.tx VALUES (1)")
            try:
                with connection.transaction():
                    connection.execute(f"INSERT INTO {SCHEMA}.tx VALUES (1)")
            except errors.UniqueViolation as error:
                state = error.sqlstate
            connection.execute(f"INSERT INTO {SCHEMA}.tx VALUES (2)")
        connection.execute("SELECT 1")
        try:
            connection.execute("SELECT 1/0")
        except errors.DivisionByZero:
            pass
        try:
            connection.execute("SELECT 1")
        except errors.InFailedSqlTransaction as error:
            failed = error.sqlstate
        connection.rollback()
        rows = connection.execute(f"SELECT array_agg(i ORDER BY i) FROM {SCHEMA}.tx").fetchone()
        saw("transactions", state, failed, rows)


def pipelines():
    with connect() as one, connect(autocommit=True) as two:
        with one.pipeline(), two.pipeline():
            cursors = []
            for i in range(200):
                for connection in (one, two):
                    cursors.append((i, connection.execute("SELECT %s::int", [i])))
            assert all(cursor.fetchone() == (i,) for i, cursor in cursors)
        one.commit()
        first, state = None, None
        try:  # the error may come at any of these, or on the way out, depending on when its answer is read
            with one.pipeline() as pipeline:
                good = one.execute("SELECT 1")
                pipeline.sync()
                first = good.fetchone()
                try:
                    one.execute("SELECT 1/0")
                    one.execute("SELECT 2")
                    pipeline.sync()
                except psycopg.Error as error:
                    state = error.sqlstate
        except psycopg.Error as error:  # or what stood behind it
            state = state or error.sqlstate
        one.rollback()
        assert one.execute("SELECT 3").fetchone() == (3,)
        many = two.cursor()
        many.executemany("SELECT %s::int * 2", [(i,) for i in range(100)], returning=True)
        values = []
        while True:
            values += many.fetchone()
            if not many.nextset():
                break
        assert values == [2 * i for i in range(100)]
        saw("pipeline", first, state, sum(values))


def server_side_cursors():
    with connect() as connection:
        with connection.cursor(name="big") as cursor:
            cursor.itersize = 100
            cursor.execute("SELECT i, repeat('x', 100) FROM generate_series(1, 2500) AS i")
            total = sum(i for i, _ in cursor)
        with connection.cursor(name="back", scrollable=True) as cursor:
            cursor.execute("SELECT generate_series(1, 100)")
            cursor.scroll(50)
            middle = cursor.fetchmany(3)
            cursor.scroll(-10)
            before = cursor.fetchone()
        connection.commit()
        saw("server-side cursors", total, middle, before)


def copy_both_ways():
    with connect() as connection:
        connection.execute(f"CREATE TABLE {SCHEMA}.copied (i int, t text)")
        with connection.cursor() as cursor:
            with cursor.copy(f"COPY {SCHEMA}.copied FROM STDIN") as copy:
                for i in range(20_000):
                    copy.write_row((i, f"row {i}\t\\ü"))
            inserted = cursor.rowcount
            with cursor.copy(f"COPY {SCHEMA}.copied TO STDOUT (FORMAT binary)") as copy:
                copy.set_types(["int4", "text"])
                rows = sum(1 for _ in copy.rows())
            connection.commit()
            try:
                with cursor.copy(f"COPY {SCHEMA}.copied FROM STDIN") as copy:
                    copy.write_row((1, "never there"))
                    raise ZeroDivisionError
            except ZeroDivisionError:
                connection.rollback()
            try:
                with cursor.copy("COPY (SELECT generate_series(1, 1000000)) TO STDOUT") as copy:
                    copy.read()
                    raise ZeroDivisionError  # psycopg cancels and reads the rest
            except ZeroDivisionError:
                connection.rollback()
            count = cursor.execute(f"SELECT count(*) FROM {SCHEMA}.copied").fetchone()
        saw("copy", inserted, rows, count)


def cancels():
    with connect(autocommit=True) as connection:
        for safe in (False, True):
            done = threading.Event()

            def cancel():
                while not done.wait(0.02):
                    connection.cancel_safe(timeout=5) if safe else connection.cancel()

            thread = threading.Thread(target=cancel)
            thread.start()
            begun = time.monotonic()
            try:
                connection.execute("SELECT pg_sleep(30)")
                raise AssertionError("not cancelled")
            except errors.QueryCanceled as error:
                state = error.sqlstate
            finally:
                done.set()
                thread.join()
            assert time.monotonic() - begun < 20
        # A late cancel may still meet one statement.
        for _ in range(20):
            try:
                assert connection.execute("SELECT 1").fetchone() == (1,)
            except errors.QueryCanceled:
                pass
        saw("cancel", state)


def notices_parameters_and_types():
    notices = []
    with connect(application_name="driver tests") as connection:
        connection.add_notice_handler(lambda diagnostic: notices.append(diagnostic.message_primary))
        connection.execute("DO $$ BEGIN RAISE NOTICE 'hello'; END $$")
        info = connection.info
        saw("session", notices, info.encoding, info.server_version, str(info.timezone), info.transaction_status.name)
        connection.commit()
        row = connection.execute(
            "SELECT current_setting('application_name'), %s::jsonb, %s::timestamptz, %s::numeric, %s::int[], %b::bytea",
            ['{"a": [1, 2]}', "2026-01-02 03:04:05+00", "1.50", [1, None, 3], b"\x00\xff"],
        ).fetchone()
        saw("types", row[0], row[1], row[2].timestamp(), row[3:])


def types_there_and_back():
    utc = datetime.timezone.utc
    values = [
        Decimal("-12345678901234567890.123456789"),
        Decimal("NaN"),
        datetime.datetime(2026, 2, 28, 23, 59, 59, 999999),
        datetime.datetime(1900, 1, 1, 12, 30, tzinfo=utc),
        datetime.date(9999, 12, 31),
        datetime.time(23, 59, 59, 1),
        datetime.timedelta(days=-3, microseconds=5),
        [[1, None], [3, 4]],
        ["a", 'b"c', "d,e", None, ""],
        Jsonb({"a": [1, 2.5, None, "ü"]}),
        Json([True, {}]),
        Range(1, 10, "[)"),
        Range(Decimal("1.5"), None, "(]"),
        Range(datetime.datetime(2026, 1, 1, tzinfo=utc), datetime.datetime(2026, 1, 2, tzinfo=utc)),
        Range(empty=True),
        Multirange([Range(1, 3), Range(7, 9)]),
        bytes(range(256)) * 40,
        uuid.UUID("12345678-1234-5678-1234-567812345678"),
        ipaddress.ip_network("10.0.0.0/8"),
        "NULL ' \\ ü 漢 \n",
        True,
        2**62,
        float("-inf"),
        None,
    ]
    names = (
        "numeric numeric timestamp timestamptz date time interval int[] text[] jsonb json int4range numrange tstzrange"
        " int4range int4multirange bytea uuid cidr text bool int8 float8 text"
    ).split()
    with connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        plain = [value.obj if isinstance(value, (Json, Jsonb)) else value for value in values]
        for binary in (False, True):
            for _ in range(7):  # unnamed, then by name
                columns = ", ".join(f"%{'b' if binary else 't'}::{name}" for name in names)
                row = connection.cursor(binary=binary).execute(f"SELECT {columns}", values).fetchone()
                assert repr(list(row)).replace("Decimal('NaN')", "") == repr(plain).replace("Decimal('NaN')", ""), row
        connection.execute(f"CREATE TYPE {SCHEMA}.mood AS ENUM ('sad', 'happy')")
        connection.execute(f"CREATE TYPE {SCHEMA}.pair AS (a int, m {SCHEMA}.mood)")
        CompositeInfo.fetch(connection, f"{SCHEMA}.pair").register(connection)
        pair = connection.execute(f"SELECT ROW(1, 'happy')::{SCHEMA}.pair").fetchone()[0]
        saw("types there and back", row, tuple(pair))


def a_pool_of_threads():
    with psycopg_pool.ConnectionPool(URL, min_size=8, max_size=8, timeout=30) as pool:
        pool.wait(30)
        wrong = []

        def work(worker):
            for i in range(30):
                with pool.connection() as connection:
                    tag = f"{worker}/{i}"
                    if connection.execute("SELECT %s::text", [tag]).fetchone() != (tag,):
                        wrong.append(tag)

        threads = [threading.Thread(target=work, args=(w,)) for w in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        saw("threads", wrong)


async def the_same_asynchronously():
    connection = await psycopg.AsyncConnection.connect(URL)
    async with connection:
        async with connection.pipeline():
            cursors = [await connection.execute("SELECT %s::int", [i]) for i in range(50)]
            values = [(await cursor.fetchone())[0] for cursor in cursors]
        assert values == list(range(50))
        async with connection.transaction(), connection.cursor(name="slow") as cursor:
            await cursor.execute("SELECT generate_series(1, 500)")
            total = 0
            async for (i,) in cursor:
                total += i
        async with connection.cursor() as cursor, cursor.copy("COPY (SELECT generate_series(1, 100)) TO STDOUT") as copy:
            copied = len([row async for row in copy.rows()])
        await connection.commit()
        statement = asyncio.create_task(connection.execute("SELECT pg_sleep(30)"))
        while not statement.done():
            await connection.cancel_safe(timeout=5)
            await asyncio.wait([statement], timeout=0.02)
        state = statement.exception().sqlstate
        await connection.rollback()

    async with psycopg_pool.AsyncConnectionPool(URL, min_size=6, max_size=6, open=False) as pool:

        async def work(i):
            async with pool.connection() as connection:
                row = await (await connection.execute("SELECT %s::int, txid_current() > 0", [i])).fetchone()
                return row[0] == i

        right = await asyncio.gather(*(work(i) for i in range(200)))
    saw("async", total, copied, state, sum(right))


def main():
    with connect(autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {SCHEMA}")
    prepares_by_itself_after_five_executions()
    forgets_its_oldest_statements()
    discards_its_statements_after_a_rollback_and_ddl()
    transactions_savepoints_and_errors()
    pipelines()
    server_side_cursors()
    copy_both_ways()
    cancels()
    notices_parameters_and_types()
    types_there_and_back()
    a_pool_of_threads()
    asyncio.run(asyncio.wait_for(the_same_asynchronously(), SECONDS_MAX))


main()
