"""psycopg 3, with its default settings, while the primary dies under it and a standby takes its place."""

import threading

import psycopg
from psycopg import errors

from failover import APPLY, FROZEN, HOW, PHASES, STRUCK, URL, hear, say

CASES = []
# what in truth may have become of each case's one row
POSSIBLE = {}


def case(*possible):
    def add(function):
        CASES.append(function)
        POSSIBLE[function.__name__] = possible
        return function

    return add


def connect(**options):
    return psycopg.connect(URL, connect_timeout=15, **options)


def in_flight(call):
    """Begins a call; the answer waits for its end, and is its error or None."""
    ended = []

    def run():
        try:
            call()
            ended.append(None)
        except psycopg.Error as error:
            ended.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def end():
        thread.join(60)
        assert ended, "no answer"
        return ended[0]

    return end


def insert(connection, who):
    connection.execute("INSERT INTO t VALUES (%s)", [who])


def in_doubt(error):
    assert isinstance(error, errors.TransactionResolutionUnknown), repr(error)


def believed_or_in_doubt(error, name):
    """Of what was sent to a primary that stood still: it may have waited for a server, and found one on the next."""
    if error is None:
        POSSIBLE[name] = (1,)
    else:
        in_doubt(error)


@case(1)
def idle_between_transactions(connection):
    connection.autocommit = True
    yield STRUCK
    insert(connection, "idle_between_transactions")


@case(1)
def in_a_block_with_a_retry_loop(connection):
    attempts = 0
    while True:
        attempts += 1
        try:
            with connection.transaction():
                insert(connection, "in_a_block_with_a_retry_loop")
                if attempts == 1:
                    yield STRUCK
                connection.execute("SELECT count(*) FROM t")
            break
        except errors.SerializationFailure:
            assert attempts < 3
    assert attempts == 2, attempts


@case(0)
def commit_is_the_first_to_notice(connection):
    insert(connection, "commit_is_the_first_to_notice")
    yield STRUCK
    try:
        connection.commit()
        raise AssertionError("the application believes in a commit")
    except errors.SerializationFailure:
        pass
    connection.rollback()


@case(0)
def an_inner_error_is_swallowed(connection):
    insert(connection, "an_inner_error_is_swallowed")
    yield STRUCK
    try:
        connection.execute("SELECT 1 FROM t")
        raise AssertionError("a statement of a lost block was run")
    except errors.SerializationFailure:
        pass
    try:
        connection.commit()
        raise AssertionError("the application believes in a commit")
    except errors.SerializationFailure:
        pass


@case(0)
def an_inner_error_is_swallowed_with_its_savepoint(connection):
    """As Django does: SAVEPOINT, ROLLBACK TO, RELEASE, and on with the block."""
    insert(connection, "an_inner_error_is_swallowed_with_its_savepoint")
    connection.execute("SAVEPOINT s1")
    yield STRUCK
    try:
        connection.execute("SELECT 1 FROM t")
        raise AssertionError("a statement of a lost block was run")
    except errors.SerializationFailure:
        connection.execute("ROLLBACK TO SAVEPOINT s1")
        connection.execute("RELEASE SAVEPOINT s1")
    try:
        connection.commit()
        raise AssertionError("the application believes in a commit")
    except errors.SerializationFailure:
        pass


@case(0)
def nested_transactions(connection):
    """psycopg's own savepoints."""
    try:
        with connection.transaction():
            insert(connection, "nested_transactions")
            try:
                with connection.transaction():
                    yield STRUCK
                    connection.execute("SELECT 1 FROM t")
            except errors.SerializationFailure:
                pass
        raise AssertionError("the application believes in a commit")
    except errors.SerializationFailure:
        pass


@case(1)
def commit_in_flight_that_is_done(connection):
    connection.execute("SET synchronous_commit = remote_apply")
    connection.commit()
    insert(connection, "commit_in_flight_that_is_done")
    yield APPLY
    end = in_flight(connection.commit)
    yield STRUCK
    in_doubt(end())


@case(1)
def write_outside_a_block_in_flight_that_is_done(connection):
    connection.autocommit = True
    connection.execute("SET synchronous_commit = remote_apply")
    yield APPLY
    end = in_flight(lambda: insert(connection, "write_outside_a_block_in_flight_that_is_done"))
    yield STRUCK
    in_doubt(end())


@case(0, 1)
def commit_in_flight(connection):
    insert(connection, "commit_in_flight")
    yield FROZEN
    end = in_flight(connection.commit)
    yield STRUCK
    believed_or_in_doubt(end(), "commit_in_flight")


@case(0, 1)
def write_outside_a_block_in_flight(connection):
    connection.autocommit = True
    yield FROZEN
    end = in_flight(lambda: insert(connection, "write_outside_a_block_in_flight"))
    yield STRUCK
    believed_or_in_doubt(end(), "write_outside_a_block_in_flight")


@case(1)
def begin_in_flight(connection):
    yield FROZEN
    end = in_flight(lambda: connection.execute("BEGIN"))
    yield STRUCK
    error = end()
    assert error is None, repr(error)
    try:
        insert(connection, "begin_in_flight")
    except errors.SerializationFailure:  # it had begun, at the old primary
        assert HOW == "postmaster"
        connection.rollback()
        insert(connection, "begin_in_flight")
    connection.commit()


@case(1)
def statement_in_a_block_in_flight(connection):
    insert(connection, "statement_in_a_block_in_flight")
    yield FROZEN
    end = in_flight(lambda: connection.execute("UPDATE t SET who = who WHERE who = 'nobody'"))
    yield STRUCK
    error = end()
    assert isinstance(error, errors.SerializationFailure) or HOW == "postmaster" and error is None, repr(error)
    connection.rollback()
    insert(connection, "statement_in_a_block_in_flight")
    connection.commit()


def prepare(connection):
    """Settings and statements that are the connection's own."""
    connection.execute("SET TIME ZONE 'Asia/Kathmandu'")
    for i in range(8):
        assert connection.execute("SELECT %s::int + 1", [i]).fetchone() == (i + 1,)
    connection.commit()
    assert connection._prepared._names


def check(connection, pid, name):
    """It is the same connection, and works as before."""
    assert not connection.closed and connection.info.backend_pid == pid, name
    if not connection.autocommit:
        connection.rollback()
    for i in range(8):
        assert connection.execute("SELECT %s::int + 1", [i]).fetchone() == (i + 1,), name
    assert connection.execute("SHOW timezone").fetchone() == ("Asia/Kathmandu",), name
    (count,) = connection.execute("SELECT count(*) FROM t WHERE who = %s", [name]).fetchone()
    assert count in POSSIBLE[name], f"{name}: {count} rows"
    if not connection.autocommit:
        connection.commit()


def main():
    waiting, pinned = [], connect(autocommit=True)
    pinned.execute("CREATE TEMPORARY TABLE mine (i int)")
    for function in CASES:
        connection = connect()
        prepare(connection)
        running = function(connection)
        waiting.append([function.__name__, connection, connection.info.backend_pid, running, next(running)])
    say("ready")
    for phase in PHASES:
        hear(phase)
        for entry in waiting:
            if entry[4] == phase:
                entry[4] = next(entry[3], None)
        say("sent")
    for name, connection, pid, _, left in waiting:
        assert left is None, name
        check(connection, pid, name)
        say(name)
    try:
        pinned.execute("SELECT count(*) FROM mine")
        raise AssertionError("its temporary table was on a server that is gone")
    except psycopg.OperationalError as error:
        assert error.sqlstate == "57P01", repr(error)
    with connect() as again:
        assert again.execute("SELECT 1").fetchone() == (1,)
    say("done")


main()
