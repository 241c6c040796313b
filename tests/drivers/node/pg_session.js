// node-postgres with its default settings: what belongs to a session and not to a transaction. Called as
// `pg_session.js URL SCHEMA`; see pg_checks.js.
'use strict'

const assert = require('node:assert')
const { Client } = require('pg')

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

async function connect(options = {}) {
  const client = new Client({ connectionString: url, ...options })
  await client.connect()
  return client
}

async function value(client, text, values) {
  const { rows } = await client.query({ text, values, rowMode: 'array' })
  return rows.length ? rows[0][0] : undefined
}

async function settings(client, others) {
  const seen = []
  const look = async (of) => {
    await others()
    for (const name of ['work_mem', 'TimeZone', 'app.tenant']) {
      seen.push(await value(of, "SELECT coalesce(current_setting($1, true), '')", [name]))
    }
  }
  await look(client)
  await client.query("SET work_mem = '7MB'")
  await client.query("SELECT set_config('app.tenant', $1, false)", ['mine'])
  await look(client)
  await client.query("BEGIN; SET TimeZone = 'Asia/Tokyo'; SET LOCAL work_mem = '8MB'")
  await client.query('COMMIT')
  await look(client)
  await client.query("BEGIN; SET TimeZone = 'Asia/Seoul'")
  await client.query('ROLLBACK')
  await look(client)
  await client.query('RESET ALL')
  await look(client)
  const given = await connect({ options: '-c work_mem=11MB -c app.tenant=options', statement_timeout: 54321 })
  await look(given)
  seen.push(await value(given, 'SHOW statement_timeout'))
  await given.query("SET work_mem = '12MB'")
  await given.query('RESET ALL')
  await look(given)
  await given.end()
  saw('settings', seen)
}

async function temporaryTables(client, others) {
  await client.query('CREATE TEMP TABLE mine (i int)')
  for (let i = 0; i < 5; i++) {
    await others()
    await client.query('INSERT INTO mine VALUES ($1)', [i])
  }
  await others()
  const sum = await value(client, 'SELECT sum(i)::int FROM mine')
  await client.query('DROP TABLE mine')
  await others()
  saw('temporary tables', sum, await sqlstate(client.query('SELECT * FROM mine')))
}

async function notifications(client, others) {
  const channel = `${schema}_channel`
  const got = []
  let wake = () => {}
  client.on('notification', (message) => {
    got.push(message.payload)
    wake()
  })
  const until = async (count) => {
    while (got.length < count) await new Promise((resolve) => (wake = resolve))
  }
  await client.query(`LISTEN ${channel}`)
  await others()
  const sender = await connect()
  for (let i = 0; i < 3; i++) await sender.query('SELECT pg_notify($1, $2)', [channel, `payload ${i}`])
  await until(3)
  await client.query(`NOTIFY ${channel}, 'from itself'`)
  await until(4)
  await client.query(`UNLISTEN ${channel}`)
  await others()
  const left = (await client.query('SELECT pg_listening_channels()')).rows
  await sender.end()
  saw('notifications', got, left)
}

async function theRest(client, others) {
  const seen = []
  const other = await connect()
  await client.query('DECLARE held CURSOR WITH HOLD FOR SELECT generate_series(1, 10) AS i')
  for (let i = 0; i < 3; i++) {
    await others()
    seen.push((await client.query('FETCH 3 FROM held')).rows.map((row) => row.i))
  }
  await client.query('CLOSE held')
  const key = [...`${schema}n`].reduce((hash, letter) => (hash * 31 + letter.charCodeAt(0)) % 2 ** 31, 7)
  await client.query('SELECT pg_advisory_lock($1)', [key])
  await others()
  seen.push(await value(other, 'SELECT pg_try_advisory_lock($1)', [key]))
  seen.push(await value(client, 'SELECT pg_advisory_unlock($1)', [key]))
  seen.push(await value(other, 'SELECT pg_try_advisory_lock($1)', [key]))
  await other.end() // lets its lock go
  while (!(await value(client, 'SELECT pg_try_advisory_lock($1)', [key]))) await others()
  seen.push(await value(client, 'SELECT pg_advisory_unlock($1)', [key]))
  await client.query('PREPARE plus (int) AS SELECT $1 + 1 AS n')
  await others()
  seen.push((await client.query('EXECUTE plus (41)')).rows)
  await client.query('DEALLOCATE plus')
  await others()
  seen.push(await sqlstate(client.query('EXECUTE plus (41)')))
  await client.query(`CREATE SEQUENCE ${schema}.numbers`)
  // outside of a transaction the first currval through howdah is told what to do instead: docs/errors.md
  await client.query('BEGIN')
  seen.push(await value(client, `SELECT nextval('${schema}.numbers')`))
  await others()
  seen.push(await value(client, `SELECT currval('${schema}.numbers')`))
  await client.query('COMMIT')
  saw('cursors, locks, prepared in SQL, sequences', seen)
}

async function main() {
  const watchdog = setTimeout(() => {
    console.error(`the checks take more than ${SECONDS_MAX} s`)
    process.exit(1)
  }, SECONDS_MAX * 1000)
  const [client, another] = [await connect(), await connect()]
  const others = async () => {
    await another.query("SET work_mem = '3MB'")
    assert.strictEqual(await value(another, 'SHOW work_mem'), '3MB')
  }
  await client.query(`CREATE SCHEMA ${schema}`)
  await settings(client, others)
  await temporaryTables(client, others)
  await notifications(client, others)
  await theRest(client, others)
  await client.end()
  await another.end()
  clearTimeout(watchdog)
}

main().catch((error) => {
  console.error(error)
  process.exit(1)
})
