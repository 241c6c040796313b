"""asyncpg at the console, with its default settings: everything prepared, everything in binary."""

import asyncio
import os

import asyncpg


async def main():
    connection = await asyncpg.connect(os.environ["URL"])
    for _ in range(3):
        pools = await connection.fetch("SHOW POOLS")
        assert pools[-1]["database"] == "pgbouncer" and isinstance(pools[-1]["cl_active"], int)
    totals = {row["name"]: row["value"] for row in await connection.fetch("SHOW TOTALS")}
    assert totals["total_query_count"] > 0, totals
    try:
        await connection.fetch("SELECT version()")
        raise SystemExit("SELECT version() was answered")
    except asyncpg.PostgresSyntaxError:
        pass
    assert await connection.fetchval("SHOW timezone") == "GMT"
    await connection.close()


asyncio.run(main())
