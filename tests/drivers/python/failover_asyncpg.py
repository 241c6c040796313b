"""asyncpg, with its default settings, while the primary dies under it and a standby takes its place."""

import asyncio

import asyncpg
from asyncpg.exceptions import SerializationError, TransactionResolutionUnknownError

from failover import APPLY, FROZEN, PHASES, STRUCK, URL, hear, say

CASES = []
# what in truth may have become of each case's one row
POSSIBLE = {}


def case(*possible):
    def add(function):
        CASES.append(function)
        POSSIBLE[function.__name__] = possible
        return function

    return add


async def insert(connection, who):
    await connection.execute("INSERT INTO t VALUES ($1)", who)


async def ended(task):
    """The error of a call in flight, or None."""
    try:
        await asyncio.wait_for(task, 60)
    except asyncpg.PostgresError as error:
        return error


async def sent(call):
    task = asyncio.ensure_future(call)
    await asyncio.sleep(0.2)
    return task


@case(1)
async def idle_between_transactions(connection):
    yield STRUCK
    await insert(connection, "idle_between_transactions")


@case(1)
async def in_a_block_with_a_retry_loop(connection):
    for attempt in range(3):
        try:
            async with connection.transaction():
                await insert(connection, "in_a_block_with_a_retry_loop")
                if attempt == 0:
                    yield STRUCK
                await connection.fetch("SELECT 1 FROM t")
            break
        except SerializationError:
            assert attempt == 0


@case(0)
async def commit_is_the_first_to_notice(connection):
    try:
        async with connection.transaction():
            await insert(connection, "commit_is_the_first_to_notice")
            yield STRUCK
        raise AssertionError("the application believes in a commit")
    except SerializationError:
        pass


@case(0)
async def an_inner_error_is_swallowed_with_its_savepoint(connection):
    try:
        async with connection.transaction():
            await insert(connection, "an_inner_error_is_swallowed_with_its_savepoint")
            try:
                async with connection.transaction():
                    yield STRUCK
                    await connection.fetch("SELECT 1 FROM t")
            except SerializationError:
                pass
        raise AssertionError("the application believes in a commit")
    except SerializationError:
        pass


@case(1)
async def commit_in_flight_that_is_done(connection):
    await connection.execute("SET synchronous_commit = remote_apply")
    transaction = connection.transaction()
    await transaction.start()
    await insert(connection, "commit_in_flight_that_is_done")
    yield APPLY
    task = await sent(transaction.commit())
    yield STRUCK
    error = await ended(task)
    assert isinstance(error, TransactionResolutionUnknownError), repr(error)


@case(1)
async def write_outside_a_block_in_flight_that_is_done(connection):
    await connection.execute("SET synchronous_commit = remote_apply")
    yield APPLY
    task = await sent(insert(connection, "write_outside_a_block_in_flight_that_is_done"))
    yield STRUCK
    error = await ended(task)
    assert isinstance(error, TransactionResolutionUnknownError), repr(error)


@case(0, 1)
async def write_outside_a_block_in_flight(connection):
    yield FROZEN
    task = await sent(insert(connection, "write_outside_a_block_in_flight"))
    yield STRUCK
    error = await ended(task)
    if error is None:  # it may have waited for a server, and found one on the next primary
        POSSIBLE["write_outside_a_block_in_flight"] = (1,)
    elif isinstance(error, SerializationError):  # it was still being prepared
        POSSIBLE["write_outside_a_block_in_flight"] = (0,)
    else:
        assert isinstance(error, TransactionResolutionUnknownError), repr(error)


async def main():
    waiting = []
    for function in CASES:
        connection = await asyncpg.connect(URL, timeout=15)
        await connection.execute("SET TIME ZONE 'Asia/Kathmandu'")
        prepared = await connection.prepare("SELECT $1::int + 1")
        pid = connection.get_server_pid()
        running = function(connection)
        waiting.append([function.__name__, connection, prepared, pid, running, await anext(running)])
    say("ready")
    loop = asyncio.get_running_loop()
    for phase in PHASES:
        await loop.run_in_executor(None, hear, phase)
        for entry in waiting:
            if entry[5] == phase:
                entry[5] = await anext(entry[4], None)
        say("sent")
    for name, connection, prepared, pid, _, left in waiting:
        assert left is None, name
        assert not connection.is_closed() and connection.get_server_pid() == pid, name
        assert await prepared.fetchval(1) == 2, name
        assert await connection.fetchval("SHOW timezone") == "Asia/Kathmandu", name
        async with connection.transaction():
            count = await connection.fetchval("SELECT count(*) FROM t WHERE who = $1", name)
        assert count in POSSIBLE[name], f"{name}: {count} rows"
        say(name)
    say("done")


asyncio.run(main())
