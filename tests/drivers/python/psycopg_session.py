"""psycopg 3 with its default settings: what belongs to a session and not to a transaction."""

import psycopg
from psycopg import errors

from checks import SCHEMA, URL, saw


def connect(**options):
    return psycopg.connect(URL, connect_timeout=15, **options)


def settings(connection, others):
    seen = []

    def look():
        others()
        for name in ("work_mem", "TimeZone", "search_path", "app.tenant"):
            seen.append(connection.execute("SELECT current_setting(%s, true)", [name]).fetchone()[0])
        seen[-1] = seen[-1] or ""  # a custom setting that was reset is empty

    look()
    connection.execute("SET work_mem = '7MB'")
    connection.execute("SET TimeZone = 'Asia/Tokyo'")
    connection.execute("SELECT set_config('app.tenant', %s, false)", ["it's mine"])
    look()
    try:
        with connection.transaction():
            connection.execute(f"SET search_path = {SCHEMA}")
            connection.execute("SET LOCAL work_mem = '8MB'")
            raise KeyError
    except KeyError:
        pass
    look()
    with connection.transaction():
        connection.execute(f"SET search_path = {SCHEMA}, public")
        connection.execute("SET LOCAL work_mem = '9MB'")
    look()
    connection.execute("DO $$ BEGIN PERFORM set_config('work_mem', '10MB', false); END $$")
    look()
    connection.execute("RESET TimeZone")
    connection.execute("RESET ALL")
    look()
    with connect(autocommit=True, options="-c work_mem=11MB -c app.tenant=options") as other:
        others()
        seen.append(other.execute("SELECT current_setting('work_mem'), current_setting('app.tenant')").fetchone())
        other.execute("SET work_mem = '12MB'")
        other.execute("RESET ALL")
        others()
        seen.append(other.execute("SELECT current_setting('work_mem'), current_setting('app.tenant')").fetchone())
    saw("settings", seen)


def temporary_tables(connection, others):
    connection.execute("CREATE TEMP TABLE mine (i int)")
    others()
    for i in range(5):
        connection.execute("INSERT INTO mine VALUES (%s)", [i])
        others()
    total = connection.execute("SELECT sum(i) FROM mine").fetchone()
    with connection.transaction():
        connection.execute("CREATE TEMP TABLE brief ON COMMIT DROP AS SELECT 1 AS i")
        brief = connection.execute("SELECT i FROM brief").fetchone()
    others()
    try:
        connection.execute("SELECT i FROM brief")
    except errors.UndefinedTable as error:
        state = error.sqlstate
    with connect(autocommit=True) as other:
        try:
            other.execute("SELECT * FROM mine")
        except errors.UndefinedTable as error:
            hidden = error.sqlstate
    connection.execute("DROP TABLE mine")
    saw("temporary tables", total, brief, state, hidden)


def notifications(connection, others):
    channel = f"{SCHEMA}_channel"
    connection.execute(f"LISTEN {channel}")
    others()
    with connect(autocommit=True) as sender:
        for i in range(3):
            sender.execute("SELECT pg_notify(%s, %s)", [channel, f"payload {i}"])
            others()
    got = [n.payload for n in connection.notifies(timeout=20, stop_after=3)]
    with connection.transaction():
        connection.execute("SELECT pg_notify(%s, 'from itself')", [channel])
    got += [n.payload for n in connection.notifies(timeout=20, stop_after=1)]
    listening = connection.execute("SELECT pg_listening_channels()").fetchall()
    connection.execute(f"UNLISTEN {channel}")
    others()
    saw("notifications", got, len(listening), connection.execute("SELECT pg_listening_channels()").fetchall())


def cursors_that_outlive_their_transaction(connection, others):
    with connection.cursor(name="held", withhold=True) as cursor:
        cursor.itersize = 10
        with connection.transaction():
            cursor.execute("SELECT generate_series(1, 100)")
        first = cursor.fetchmany(5)
        others()
        rest = [i for (i,) in cursor]
    connection.execute("DECLARE held CURSOR WITH HOLD FOR SELECT generate_series(1, 10)")
    others()
    some = connection.execute("FETCH 3 FROM held").fetchall()
    others()
    some += connection.execute("FETCH 3 FROM held").fetchall()
    connection.execute("CLOSE held")
    try:
        connection.execute("FETCH 1 FROM held")
    except errors.InvalidCursorName as error:
        state = error.sqlstate
    saw("cursors with hold", first, sum(rest), some, state)


def advisory_locks(connection, others):
    key = hash_of(SCHEMA)
    with connect(autocommit=True) as other:
        connection.execute("SELECT pg_advisory_lock(%s)", [key])
        others()
        refused = other.execute("SELECT pg_try_advisory_lock(%s)", [key]).fetchone()
        others()
        released = connection.execute("SELECT pg_advisory_unlock(%s)", [key]).fetchone()
        taken = other.execute("SELECT pg_try_advisory_lock(%s)", [key]).fetchone()
        others()
        again = other.execute("SELECT pg_advisory_unlock(%s)", [key]).fetchone()
    saw("advisory locks", refused, released, taken, again)


def hash_of(text):
    return sum(ord(letter) * 31**at for at, letter in enumerate(text)) % 2**31


def prepared_in_sql(connection, others):
    seen = []
    connection.execute("PREPARE plus (int) AS SELECT $1 + 1")
    for i in range(3):
        others()
        seen.append(connection.execute(f"EXECUTE plus ({i})").fetchone()[0])
    with connect(autocommit=True) as other:
        other.execute("PREPARE plus (int) AS SELECT $1 + 1000")
        seen.append(other.execute("EXECUTE plus (1)").fetchone()[0])
    seen.append(connection.execute("EXECUTE plus (1)").fetchone()[0])
    seen.append([row[0] for row in connection.execute("SELECT name FROM pg_prepared_statements WHERE from_sql")])
    connection.execute("DEALLOCATE plus")
    others()
    try:
        connection.execute("EXECUTE plus (1)")
    except errors.InvalidSqlStatementName as error:
        seen.append(error.sqlstate)
    connection.execute("PREPARE plus (int) AS SELECT $1 + 2")
    connection.execute("DISCARD ALL")
    others()
    try:
        connection.execute("EXECUTE plus (1)")
    except errors.InvalidSqlStatementName as error:
        seen.append(error.sqlstate)
    saw("prepared in SQL", seen)


def sequences(connection, others):
    connection.execute(f"CREATE SEQUENCE {SCHEMA}.numbers")
    others()
    # outside of a transaction the first currval through howdah is told what to do instead: docs/errors.md
    with connection.transaction():
        first = connection.execute(f"SELECT nextval('{SCHEMA}.numbers')").fetchone()
        others()
        now = connection.execute(f"SELECT currval('{SCHEMA}.numbers'), lastval()").fetchone()
    with connect(autocommit=True) as other:
        try:
            other.execute(f"SELECT currval('{SCHEMA}.numbers')")
        except errors.ObjectNotInPrerequisiteState as error:
            state = error.sqlstate
    saw("sequences", first, now, state)


def main():
    with connect(autocommit=True) as connection, connect(autocommit=True) as another:

        def others():
            """Somebody else gets whatever server is free."""
            another.execute("SET work_mem = '3MB'")
            assert another.execute("SELECT current_setting('work_mem')").fetchone() == ("3MB",)

        connection.execute(f"CREATE SCHEMA {SCHEMA}")
        settings(connection, others)
        temporary_tables(connection, others)
        notifications(connection, others)
        cursors_that_outlive_their_transaction(connection, others)
        advisory_locks(connection, others)
        prepared_in_sql(connection, others)
        sequences(connection, others)


main()
