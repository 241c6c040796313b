"""asyncpg with its default settings: a statement cache of 100 names on every connection, and a reset when the pool
takes a connection back.
"""

import asyncio
import datetime
import ipaddress
import uuid
from decimal import Decimal

import asyncpg

from checks import SCHEMA, SECONDS_MAX, URL, saw


async def a_statement_cache_shared_by_nobody(pool):
    """Every connection calls its statements __asyncpg_stmt_1__ and so on, each for another text."""

    async def work(worker):
        async with pool.acquire() as connection:
            for i in range(40):
                n = (worker * 7 + i) % 25
                assert await connection.fetchval(f"SELECT {n} + $1::int", i) == n + i
            return 40

    saw("statement cache", sum(await asyncio.gather(*(work(w) for w in range(24)))))


async def more_statements_than_the_cache_holds():
    connection = await asyncpg.connect(URL)
    for i in range(150):
        assert await connection.fetchval(f"SELECT {i} * $1::int", 2) == 2 * i
    for i in range(150):
        assert await connection.fetchval(f"SELECT {i} * $1::int", 3) == 3 * i
    await connection.close()
    saw("cache eviction", "fine")


async def transactions(pool):
    async with pool.acquire() as connection:
        await connection.execute(f"CREATE TABLE {SCHEMA}.tx (i int PRIMARY KEY)")
        async with connection.transaction():
            await connection.execute(f"INSERT INTO {SCHEMA}.tx VALUES (1)")
            try:
                async with connection.transaction():
                    await connection.execute(f"INSERT INTO {SCHEMA}.tx VALUES ($1)", 1)
            except asyncpg.UniqueViolationError as error:
                inner = error.sqlstate
            await connection.execute(f"INSERT INTO {SCHEMA}.tx VALUES ($1)", 2)
        try:
            async with connection.transaction():
                await connection.execute(f"INSERT INTO {SCHEMA}.tx VALUES (3)")
                raise KeyError
        except KeyError:
            pass
        async with connection.transaction(isolation="serializable", readonly=True):
            level = await connection.fetchval("SHOW transaction_isolation")
            try:
                await connection.execute(f"INSERT INTO {SCHEMA}.tx VALUES (4)")
            except asyncpg.ReadOnlySQLTransactionError as error:
                readonly = error.sqlstate
        rows = await connection.fetch(f"SELECT i FROM {SCHEMA}.tx ORDER BY i")
    saw("transactions", inner, level, readonly, [row["i"] for row in rows])


async def counting_together(pool):
    await pool.execute(f"CREATE TABLE {SCHEMA}.counter AS SELECT 0 AS n")

    async def add():
        async with pool.acquire() as connection, connection.transaction():
            await connection.execute(f"UPDATE {SCHEMA}.counter SET n = n + 1")

    await asyncio.gather(*(add() for _ in range(100)))
    saw("concurrent updates", await pool.fetchval(f"SELECT n FROM {SCHEMA}.counter"))


async def copies(pool):
    async with pool.acquire() as connection:
        await connection.execute(f"CREATE TABLE {SCHEMA}.copied (i int, t text, at timestamptz)")
        now = datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone.utc)
        records = [(i, f"ü{i}", now) for i in range(20_000)]
        into = await connection.copy_records_to_table("copied", schema_name=SCHEMA, records=records)
        parts = []

        async def take(part):
            parts.append(len(part))

        out = await connection.copy_from_query(f"SELECT i, t FROM {SCHEMA}.copied WHERE i >= $1", 10_000, output=take)
        try:
            await connection.copy_records_to_table("tx", schema_name=SCHEMA, records=[(1,)])
        except asyncpg.PostgresError as error:
            wrong = error.sqlstate
        count = await connection.fetchval(f"SELECT count(*) FROM {SCHEMA}.copied")
    saw("copy", into, out, sum(parts), wrong, count)


async def cursors(pool):
    async with pool.acquire() as connection:
        async with connection.transaction():
            total = 0
            async for record in connection.cursor("SELECT generate_series(1, $1::int)", 1000, prefetch=70):
                total += record[0]
            cursor = await connection.cursor("SELECT generate_series(1, 100)")
            await cursor.forward(10)
            some = [record[0] for record in await cursor.fetch(5)]
    saw("cursors", total, some)


async def prepared_statements(pool):
    async with pool.acquire() as connection, pool.acquire() as other:
        one = await connection.prepare("SELECT $1::int + 1")
        two = await other.prepare("SELECT $1::text || '!'")
        for i in range(30):
            assert await one.fetchval(i) == i + 1
            assert await two.fetchval(str(i)) == f"{i}!"
        many = await connection.prepare(f"INSERT INTO {SCHEMA}.counter VALUES ($1) RETURNING n")
        returned = await many.fetchmany([(i,) for i in range(50)])
        await connection.executemany(f"INSERT INTO {SCHEMA}.counter VALUES ($1)", [(i,) for i in range(500)])
        types = [p.name for p in one.get_parameters()] + [a.type.name for a in one.get_attributes()]
        count = await connection.fetchval(f"SELECT count(*) FROM {SCHEMA}.counter")
    saw("prepared", types, sum(row[0] for row in returned), count)


async def types_of_its_own(pool):
    async with pool.acquire() as connection:
        await connection.execute(f"CREATE TYPE {SCHEMA}.mood AS ENUM ('sad', 'happy')")
        await connection.execute(f"CREATE TYPE {SCHEMA}.pair AS (a int, m {SCHEMA}.mood)")
        row = await connection.fetchrow(f"SELECT ROW(1, 'happy')::{SCHEMA}.pair, ARRAY['sad']::{SCHEMA}.mood[]")
    saw("types", tuple(row[0]), row[1])


async def types_there_and_back(pool):
    utc = datetime.timezone.utc
    values = {
        "numeric": Decimal("-12345678901234567890.123456789"),
        "timestamp": datetime.datetime(2026, 2, 28, 23, 59, 59, 999999),
        "timestamptz": datetime.datetime(1900, 1, 1, 12, 30, tzinfo=utc),
        "date": datetime.date(9999, 12, 31),
        "time": datetime.time(23, 59, 59, 1),
        "interval": datetime.timedelta(days=-3, microseconds=5),
        "int[]": [[1, None], [3, 4]],
        "text[]": ["a", 'b"c', "d,e", None, ""],
        "jsonb": '{"a": [1, 2.5, null]}',
        "json": "[true, {}]",
        "int4range": asyncpg.Range(1, 10),
        "numrange": asyncpg.Range(Decimal("1.5"), None, lower_inc=False),
        "int4multirange": [asyncpg.Range(1, 3), asyncpg.Range(7, 9)],
        "bytea": bytes(range(256)) * 40,
        "uuid": uuid.UUID("12345678-1234-5678-1234-567812345678"),
        "cidr": ipaddress.ip_network("10.0.0.0/8"),
        "bool": True,
        "int8": 2**62,
        "float8": float("-inf"),
        "point": asyncpg.Point(1.5, -2),
        "bit(5)": asyncpg.BitString("10110"),
    }
    columns = ", ".join(f"${at}::{name}" for at, name in enumerate(values, 1))
    for _ in range(3):
        row = await pool.fetchrow(f"SELECT {columns}", *values.values())
        assert list(row) == list(values.values()), row
    saw("types there and back", list(row))


async def timeouts_and_cancels(pool):
    seen = []
    async with pool.acquire() as connection:
        try:
            await connection.execute("SELECT pg_sleep(30)", timeout=0.1)  # asyncpg sends a CancelRequest
        except asyncio.TimeoutError:
            seen.append("timeout")
        seen.append(await connection.fetchval("SELECT 1"))
        task = asyncio.create_task(connection.fetchval("SELECT pg_sleep(30)"))
        await asyncio.sleep(0.1)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            seen.append("cancelled")
        seen.append(await connection.fetchval("SELECT 2"))
    saw("cancel", seen)


async def main():
    connection = await asyncpg.connect(URL, timeout=15)
    await connection.execute(f"CREATE SCHEMA {SCHEMA}")
    await connection.close()
    async with asyncpg.create_pool(URL) as pool:  # ten connections
        await a_statement_cache_shared_by_nobody(pool)
        await more_statements_than_the_cache_holds()
        await transactions(pool)
        await counting_together(pool)
        await copies(pool)
        await cursors(pool)
        await prepared_statements(pool)
        await types_of_its_own(pool)
        await types_there_and_back(pool)
        await timeouts_and_cancels(pool)


asyncio.run(asyncio.wait_for(main(), SECONDS_MAX))
