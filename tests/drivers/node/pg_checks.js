// node-postgres with its default settings. Called as `pg_checks.js URL SCHEMA`; each check says in one line what it saw,
// and nothing that depends on where the URL leads: the run against PostgreSQL and the run through howdah are compared.
'use strict'

const assert = require('node:assert')
const { Client, Pool } = require('pg')
const Cursor = require('pg-cursor')
const QueryStream = require('pg-query-stream')

const [url, schema] = process.argv.slice(2)
const SECONDS_MAX = 60

function saw(check, ...facts) {
  console.log(`${check}:`, JSON.stringify(facts))
}

async function sqlstate(promise) {
  return promise.then(
    () => 'none',
    (error) => error.code,
  )
}

async function aPool(pool) {
  const answers = await Promise.all(
    Array.from({ length: 300 }, (_, i) => pool.query('SELECT $1::int AS i, $2::text AS t', [i, `t${i}`])),
  )
  answers.forEach(({ rows }, i) => assert.deepStrictEqual(rows, [{ i, t: `t${i}` }]))
  saw('pool', answers.length, pool.totalCount)
}

async function namedStatements(pool) {
  // Every client has the same names for other texts.
  const clients = await Promise.all([pool.connect(), pool.connect(), pool.connect()])
  try {
    for (let round = 0; round < 30; round++) {
      await Promise.all(
        clients.map(async (client, c) => {
          const { rows } = await client.query({ name: 'same', text: `SELECT $1::int + ${c * 1000} AS n`, values: [round] })
          assert.deepStrictEqual(rows, [{ n: round + c * 1000 }])
        }),
      )
    }
    const another = clients[0].query({ name: 'same', text: 'SELECT 1' })
    await assert.rejects(another, /must be unique/)
    const broken = await sqlstate(clients[1].query({ name: 'broken', text: 'SELEC 1' }))
    const after = await clients[1].query({ name: 'good', text: 'SELECT 1 AS one' })
    saw('named statements', broken, after.rows)
  } finally {
    clients.forEach((client) => client.release())
  }
}

async function transactions(pool) {
  await pool.query(`CREATE TABLE ${schema}.tx (i int PRIMARY KEY)`)
  const client = await pool.connect()
  const states = []
  try {
    await client.query('BEGIN')
    await client.query(`INSERT INTO ${schema}.tx VALUES ($1)`, [1])
    await client.query('SAVEPOINT s')
    states.push(await sqlstate(client.query(`INSERT INTO ${schema}.tx VALUES ($1)`, [1])))
    states.push(await sqlstate(client.query('SELECT 1')))
    await client.query('ROLLBACK TO SAVEPOINT s')
    await client.query(`INSERT INTO ${schema}.tx VALUES ($1)`, [2])
    await client.query('COMMIT')
    await client.query('BEGIN')
    await client.query(`INSERT INTO ${schema}.tx VALUES (3)`)
    await client.query('ROLLBACK')
    const several = await client.query('SELECT 1 AS a; SELECT 2 AS b, 3 AS c')
    states.push(several.map((result) => result.rows))
  } finally {
    client.release()
  }
  const { rows } = await pool.query(`SELECT i FROM ${schema}.tx ORDER BY i`)
  saw('transactions', states, rows)
}

async function concurrentUpdates(pool) {
  await pool.query(`CREATE TABLE ${schema}.counter AS SELECT 0 AS n`)
  await Promise.all(
    Array.from({ length: 60 }, async () => {
      const client = await pool.connect()
      try {
        await client.query('BEGIN')
        await client.query(`UPDATE ${schema}.counter SET n = n + $1`, [1])
        await client.query('COMMIT')
      } finally {
        client.release()
      }
    }),
  )
  saw('concurrent updates', (await pool.query(`SELECT n FROM ${schema}.counter`)).rows)
}

async function cursors(pool) {
  const client = await pool.connect()
  const seen = []
  try {
    // A cursor of pg-cursor is a portal that is not synced before it is closed: it needs no transaction.
    for (const inBlock of [true, false]) {
      if (inBlock) await client.query('BEGIN')
      const cursor = client.query(new Cursor('SELECT i FROM generate_series(1, $1::int) AS i', [1000]))
      let sum = 0
      for (let rows; (rows = await cursor.read(64)).length > 0; ) sum += rows.reduce((a, row) => a + row.i, 0)
      await cursor.close()
      if (inBlock) await client.query('COMMIT')
      seen.push(sum)
    }
    const early = client.query(new Cursor('SELECT generate_series(1, 1000000) AS i'))
    seen.push((await early.read(3)).map((row) => row.i))
    await early.close()
    seen.push((await client.query('SELECT 1 AS one')).rows)
    const failing = client.query(new Cursor('SELECT 10 / (5 - i) AS q FROM generate_series(1, 9) AS i'))
    seen.push((await failing.read(2)).map((row) => row.q))
    seen.push(await sqlstate(failing.read(100)))
    seen.push((await client.query('SELECT 2 AS two')).rows)
  } finally {
    client.release()
  }
  saw('pg-cursor', seen)
}

async function streams(pool) {
  const totals = await Promise.all(
    [1, 2, 3].map(async (n) => {
      const client = await pool.connect()
      try {
        let total = 0
        const stream = client.query(new QueryStream('SELECT $1::int * i AS i FROM generate_series(1, 2000) AS i', [n]))
        for await (const row of stream) total += row.i
        return total
      } finally {
        client.release()
      }
    }),
  )
  const client = await pool.connect()
  try {
    for await (const row of client.query(new QueryStream('SELECT generate_series(1, 100000) AS i'))) {
      if (row.i === 250) break // closes the portal early
    }
    saw('pg-query-stream', totals, (await client.query('SELECT 3 AS three')).rows)
  } finally {
    client.release()
  }
}

async function errorsNoticesAndTypes(pool) {
  const client = new Client({ connectionString: url, application_name: 'driver tests' })
  await client.connect()
  const notices = []
  client.on('notice', (notice) => notices.push(notice.message))
  await client.query("DO $$ BEGIN RAISE NOTICE 'hello'; END $$")
  const states = [
    await sqlstate(client.query('SELECT 1/0')),
    await sqlstate(client.query('SELECT $1::int', ['x'])),
    await sqlstate(client.query('SELECT nope')),
  ]
  const { rows } = await client.query(
    "SELECT current_setting('application_name') AS name, $1::jsonb AS j, $2::bytea AS b, $3::int[] AS a, $4::text AS nul",
    [{ a: [1, 2] }, Buffer.from([0, 255]), [1, null, 3], null],
  )
  const big = await client.query("SELECT repeat('x', 3000000) AS x")
  saw('session', notices, states, rows, big.rows[0].x.length)
  await client.end()
}

async function types(pool) {
  const values = [
    ['numeric', '-12345678901234567890.123456789'],
    ['timestamptz', new Date(Date.UTC(2026, 1, 28, 23, 59, 59, 999))],
    ['date', '9999-12-31'],
    ['interval', '-3 days 00:00:05'],
    ['int[]', [[1, null], [3, 4]]],
    ['text[]', ['a', 'b"c', 'd,e', null, '']],
    ['jsonb', { a: [1, 2.5, null, 'ü'] }],
    ['json', JSON.stringify([true, {}])],
    ['int4range', '[1,10)'],
    ['tstzrange', '["2026-01-01 00:00:00+00",)'],
    ['bytea', Buffer.from(Array.from({ length: 10000 }, (_, i) => i % 256))],
    ['uuid', '12345678-1234-5678-1234-567812345678'],
    ['bool', true],
    ['int8', '4611686018427387904'],
    ['float8', -Infinity],
    ['text', "NULL ' \\\\ ü 漢 \\n"],
    ['text', null],
  ]
  const columns = values.map(([name], i) => `$${i + 1}::${name} AS c${i}`).join(', ')
  const parameters = values.map(([, value]) => value)
  const client = await pool.connect()
  try {
    await client.query("BEGIN; SET LOCAL TimeZone = 'UTC'")
    const text = (await client.query(`SELECT ${columns}`, parameters)).rows
    for (let i = 0; i < 3; i++) {
      const named = await client.query({ name: 'types', text: `SELECT ${columns}`, values: parameters })
      assert.deepStrictEqual(named.rows, text)
    }
    const binary = await client.query({ text: 'SELECT $1::int4 AS i, $2::bool AS b', values: [7, true], binary: true })
    await client.query('COMMIT')
    saw('types', text, binary.rows)
  } finally {
    client.release()
  }
}

async function copies(pool) {
  // pg has no COPY of its own; what pg-copy-streams sends is sent here by hand
  await pool.query(`CREATE TABLE ${schema}.copied (i int, t text)`)
  const client = await pool.connect()
  const { connection } = client
  const tags = []
  try {
    const copy = (text, started) =>
      new Promise((resolve, reject) => {
        const submittable = {
          submit: (on) => on.query(text),
          handleCopyInResponse: () => started && started(),
          handleCopyData: ({ chunk }) => tags.push(chunk.toString()),
          handleRowDescription: () => {},
          handleCommandComplete: ({ text }) => tags.push(text),
          handleReadyForQuery: resolve,
          handleError: reject,
        }
        client.query(submittable)
      })
    await copy(`COPY ${schema}.copied FROM STDIN`, () => {
      for (let i = 0; i < 1000; i++) connection.sendCopyFromChunk(Buffer.from(`${i}\trow ${i}\n`))
      connection.endCopyFrom()
    })
    await copy(`COPY (SELECT * FROM ${schema}.copied WHERE i > 997 ORDER BY i) TO STDOUT`)
    const failed = await sqlstate(copy(`COPY ${schema}.copied FROM STDIN`, () => connection.sendCopyFail('changed my mind')))
    saw('copy', tags, failed, (await client.query(`SELECT count(*)::int FROM ${schema}.copied`)).rows)
  } finally {
    client.release()
  }
}

async function cancels() {
  // What pg's own Client.cancel sends, by hand: it wants a connection of its own, which it does not close.
  const victim = new Client({ connectionString: url })
  await victim.connect()
  const sleeping = sqlstate(victim.query('SELECT pg_sleep(30)'))
  let ended = null
  sleeping.then((state) => (ended = state))
  while (ended === null) {
    await new Promise((resolve) => {
      const { hostname, port } = new URL(url)
      const socket = require('node:net').connect(Number(port), hostname)
      const request = Buffer.alloc(16)
      request.writeInt32BE(16, 0)
      request.writeInt32BE(80877102, 4)
      request.writeInt32BE(victim.processID, 8)
      request.writeInt32BE(victim.secretKey, 12)
      socket.on('error', resolve)
      socket.on('close', resolve)
      socket.on('connect', () => socket.write(request))
      socket.resume()
    })
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
  await victim.end()
  saw('cancel', ended)
  // its own timeout ends the connection instead
  const pool = new Pool({ connectionString: url, max: 2 })
  const { rows } = await pool.query('SELECT 1 AS one')
  const timed = new Client({ connectionString: url, query_timeout: 100 })
  await timed.connect()
  await assert.rejects(timed.query('SELECT pg_sleep(2)'), /timeout/)
  await timed.end()
  const limited = new Client({ connectionString: url })
  await limited.connect()
  await limited.query('BEGIN')
  await limited.query("SET LOCAL statement_timeout = '50ms'")
  const state = await sqlstate(limited.query('SELECT pg_sleep(30)'))
  await limited.query('ROLLBACK')
  await limited.end()
  await pool.end()
  saw('timeouts', rows, state)
}

async function main() {
  const watchdog = setTimeout(() => {
    console.error(`the checks take more than ${SECONDS_MAX} s`)
    process.exit(1)
  }, SECONDS_MAX * 1000)
  const pool = new Pool({ connectionString: url }) // ten clients
  await pool.query(`CREATE SCHEMA ${schema}`)
  await aPool(pool)
  await namedStatements(pool)
  await transactions(pool)
  await concurrentUpdates(pool)
  await cursors(pool)
  await streams(pool)
  await errorsNoticesAndTypes(pool)
  await types(pool)
  await copies(pool)
  await cancels()
  await pool.end()
  clearTimeout(watchdog)
}

main().catch((error) => {
  console.error(error)
  process.exit(1)
})
