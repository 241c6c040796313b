"""asyncpg with its default settings: what belongs to a session and not to a transaction."""

import asyncio

import asyncpg

from checks import SCHEMA, SECONDS_MAX, URL, saw


async def settings(connection, others):
    seen = []

    async def look():
        await others()
        for name in ("work_mem", "timezone", "app.tenant"):
            seen.append(await connection.fetchval("SELECT coalesce(current_setting($1, true), '')", name))

    await look()
    await connection.execute("SET work_mem = '7MB'")
    await connection.execute("SELECT set_config('app.tenant', $1, false)", "mine")
    await look()
    async with connection.transaction():
        await connection.execute("SET timezone = 'Asia/Tokyo'")
        await connection.execute("SET LOCAL work_mem = '8MB'")
    await look()
    seen.append(connection.get_settings().TimeZone)
    await connection.reset()  # what a pool does, too
    await look()
    other = await asyncpg.connect(URL, server_settings={"work_mem": "11MB", "app.tenant": "startup"})
    await others()
    seen.append(tuple(await other.fetchrow("SELECT current_setting('work_mem'), current_setting('app.tenant')")))
    await other.execute("SET work_mem = '12MB'; RESET ALL")
    await others()
    seen.append(tuple(await other.fetchrow("SELECT current_setting('work_mem'), current_setting('app.tenant')")))
    await other.close()
    saw("settings", seen)


async def temporary_tables(connection, others):
    await connection.execute("CREATE TEMP TABLE mine (i int, t text)")
    await others()
    await connection.copy_records_to_table("mine", records=[(i, f"row {i}") for i in range(1000)])
    await others()
    await connection.executemany("INSERT INTO mine VALUES ($1, $2)", [(i, "more") for i in range(100)])
    await others()
    row = await connection.fetchrow("SELECT count(*), sum(i) FROM mine")
    await connection.execute("DROP TABLE mine")
    saw("temporary tables", tuple(row))


async def notifications(connection, others):
    channel, got = f"{SCHEMA}_channel", asyncio.Queue()

    def hear(_connection, _pid, channel, payload):
        got.put_nowait(payload)

    await connection.add_listener(channel, hear)
    await others()
    other = await asyncpg.connect(URL)
    for i in range(3):
        await other.execute("SELECT pg_notify($1, $2)", channel, f"payload {i}")
    heard = [await asyncio.wait_for(got.get(), 20) for _ in range(3)]
    await connection.execute("SELECT pg_notify($1, 'from itself')", channel)
    heard.append(await asyncio.wait_for(got.get(), 20))
    await connection.remove_listener(channel, hear)
    await others()
    left = await connection.fetch("SELECT pg_listening_channels()")
    await other.close()
    saw("notifications", heard, left)


async def the_rest(connection, others):
    other = await asyncpg.connect(URL)
    seen = []
    await connection.execute("DECLARE held CURSOR WITH HOLD FOR SELECT generate_series(1, 10) AS i")
    for _ in range(3):
        await others()
        seen.append([row["i"] for row in await connection.fetch("FETCH 3 FROM held")])
    await connection.execute("CLOSE held")
    key = sum(ord(letter) * 31**at for at, letter in enumerate(SCHEMA + "a")) % 2**31
    await connection.execute("SELECT pg_advisory_lock($1)", key)
    await others()
    seen.append(await other.fetchval("SELECT pg_try_advisory_lock($1)", key))
    seen.append(await connection.fetchval("SELECT pg_advisory_unlock($1)", key))
    seen.append(await other.fetchval("SELECT pg_try_advisory_lock($1)", key))
    await other.reset()  # unlocks all
    seen.append(await connection.fetchval("SELECT pg_try_advisory_lock($1)", key))
    seen.append(await connection.fetchval("SELECT pg_advisory_unlock($1)", key))
    await connection.execute("PREPARE plus (int) AS SELECT $1 + 1")
    await others()
    seen.append(await connection.fetchval("EXECUTE plus (41)"))
    await connection.execute("DEALLOCATE plus")
    try:
        await connection.execute("EXECUTE plus (41)")
    except asyncpg.InvalidSQLStatementNameError as error:
        seen.append(error.sqlstate)
    await other.close()
    saw("cursors, locks, prepared in SQL", seen)


async def a_pool_that_resets_its_connections():
    """The pool's own reset: SELECT pg_advisory_unlock_all(); CLOSE ALL; UNLISTEN *; RESET ALL."""
    async with asyncpg.create_pool(URL, min_size=2, max_size=2) as pool:
        seen = set()
        for i in range(20):
            async with pool.acquire() as connection:
                seen.add((await connection.fetchval("SHOW work_mem"), await connection.fetchval("SHOW timezone")))
                await connection.execute("SET work_mem = '7MB'; SET timezone = 'Asia/Tokyo'")
                assert await connection.fetchval("SHOW work_mem") == "7MB"
    saw("pool", seen)


async def main():
    connection, another = await asyncpg.connect(URL), await asyncpg.connect(URL)

    async def others():
        await another.execute("SET work_mem = '3MB'")
        assert await another.fetchval("SHOW work_mem") == "3MB"

    await connection.execute(f"CREATE SCHEMA {SCHEMA}")
    await settings(connection, others)
    await temporary_tables(connection, others)
    await notifications(connection, others)
    await the_rest(connection, others)
    await connection.close()
    await another.close()
    await a_pool_that_resets_its_connections()


asyncio.run(asyncio.wait_for(main(), SECONDS_MAX))
