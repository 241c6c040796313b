// node-postgres, with its default settings, while the primary dies under it and a standby takes its place.
//
// Called as `SCRIPT URL HOW`; tests/drivers/python/failover.py says in which order things happen.

const assert = require('node:assert');
const readline = require('node:readline');
const { Client, Pool } = require('pg');

const [url] = process.argv.slice(2);
const lines = readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const hear = async (word) => assert.strictEqual((await lines.next()).value, word);
const say = (word) => console.log(word);
const insert = (client, who) => client.query('INSERT INTO t VALUES ($1)', [who]);
const refused = async (promise, code) => {
  const error = await promise.then(() => undefined, (error) => error);
  assert.strictEqual(error?.code, code, `${error}`);
};
// the error of a call in flight, or undefined; looked at later
const inFlight = (promise) => promise.then(() => undefined, (error) => error);

// each case is given a client of its own, and yields what it waits for; and what in truth may have become of its one row
const cases = {
  idle_between_transactions: [[1], async function* (client, who) {
    yield 'struck';
    await insert(client, who);
  }],
  in_a_block_with_a_retry_loop: [[1], async function* (client, who) {
    for (let attempt = 0; ; attempt += 1) {
      try {
        await client.query('BEGIN');
        await insert(client, who);
        if (attempt === 0) yield 'struck';
        await client.query('SELECT 1 FROM t');
        await client.query('COMMIT');
        return;
      } catch (error) {
        assert.ok(error.code === '40001' && attempt === 0, `${error}`);
        await client.query('ROLLBACK');
      }
    }
  }],
  commit_is_the_first_to_notice: [[0], async function* (client, who) {
    await client.query('BEGIN');
    await insert(client, who);
    yield 'struck';
    await refused(client.query('COMMIT'), '40001');
  }],
  an_inner_error_is_swallowed_with_its_savepoint: [[0], async function* (client, who) {
    await client.query('BEGIN');
    await insert(client, who);
    await client.query('SAVEPOINT s');
    yield 'struck';
    await refused(client.query('SELECT 1 FROM t'), '40001');
    await client.query('ROLLBACK TO SAVEPOINT s');
    await client.query('RELEASE SAVEPOINT s');
    await refused(client.query('COMMIT'), '40001');
  }],
  commit_in_flight_that_is_done: [[1], async function* (client, who) {
    await client.query('SET synchronous_commit = remote_apply');
    await client.query('BEGIN');
    await insert(client, who);
    yield 'apply';
    const end = inFlight(client.query('COMMIT'));
    yield 'struck';
    assert.strictEqual((await end)?.code, '08007');
  }],
  write_outside_a_block_in_flight_that_is_done: [[1], async function* (client, who) {
    await client.query('SET synchronous_commit = remote_apply');
    yield 'apply';
    const end = inFlight(insert(client, who));
    yield 'struck';
    assert.strictEqual((await end)?.code, '08007');
  }],
  write_outside_a_block_in_flight: [[0, 1], async function* (client, who) {
    yield 'frozen';
    const end = inFlight(insert(client, who));
    yield 'struck';
    const error = await end;
    // it may have waited for a server, and found one on the next primary
    if (error === undefined) cases[who][0] = [1];
    else assert.strictEqual(error?.code, '08007', `${error}`);
  }],
};

async function main() {
  const waiting = [];
  for (const [who, [, run]] of Object.entries(cases)) {
    const client = new Client({ connectionString: url });
    client.on('error', (error) => assert.fail(`${who}: the connection broke: ${error}`));
    await client.connect();
    await client.query("SET TIME ZONE 'Asia/Kathmandu'");
    const named = { name: 'plus', text: 'SELECT $1::int + 1 AS i', values: [1] };
    await client.query(named);
    const running = run(client, who);
    waiting.push({ who, client, named, pid: client.processID, running, phase: (await running.next()).value });
  }
  const pool = new Pool({ connectionString: url, max: 2 });
  await pool.query('SELECT 1');
  pool.on('error', (error) => assert.fail(`an idle connection of the pool broke: ${error}`));
  say('ready');
  for (const phase of ['apply', 'frozen', 'struck']) {
    await hear(phase);
    for (const entry of waiting) {
      if (entry.phase === phase) entry.phase = (await entry.running.next()).value;
    }
    await new Promise((resolve) => setTimeout(resolve, 200)); // on their way
    say('sent');
  }
  for (const { who, client, named, pid, phase } of waiting) {
    assert.strictEqual(phase, undefined, who);
    assert.strictEqual(client.processID, pid);
    assert.strictEqual((await client.query(named)).rows[0].i, 2, who);
    assert.strictEqual((await client.query('SHOW timezone')).rows[0].TimeZone, 'Asia/Kathmandu', who);
    const { rows } = await client.query('SELECT count(*)::int AS n FROM t WHERE who = $1', [who]);
    assert.ok(cases[who][0].includes(rows[0].n), `${who}: ${rows[0].n} rows`);
    say(who);
    await client.end();
  }
  await pool.query('SELECT 1');
  await pool.end();
  say('done');
  process.exit(0);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
