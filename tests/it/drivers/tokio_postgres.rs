//! tokio-postgres with its default settings: the checks that the scripts in `tests/drivers` make of the others.

use std::io::Cursor;
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::future::{self, try_join_all};
use futures_util::{SinkExt, StreamExt, TryStreamExt};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{AsyncMessage, Client, NoTls, SimpleQueryMessage};

use super::{POOL, SCRIPT_MAX, SESSIONS, assert_shared};
use crate::support::{Howdah, SOON, Tenant, shared};

/// A tokio-postgres client and the task that drives it.
async fn connect(tenant: &Tenant, port: u16) -> Client {
    let (client, connection) = tenant.config(port).connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// Values of every kind that the driver knows by itself, as parameters and as results, all of them binary.
async fn types_there_and_back(client: &Client, schema: &str) -> String {
    let (time, address) = (UNIX_EPOCH + Duration::from_micros(1_767_225_600_123_456), "10.1.2.3");
    let address: IpAddr = address.parse().unwrap();
    let (array, texts) = (vec![Some(1_i32), None, Some(3)], vec!["a", "b\"c", "d,e", ""]);
    let bytes: Vec<u8> = (0..=255_u8).cycle().take(10_000).collect();
    client
        .batch_execute(&format!("CREATE TYPE {schema}.mood AS ENUM ('sad', 'happy'); CREATE DOMAIN {schema}.d AS int"))
        .await
        .unwrap();
    let sql = format!(
        r#"SELECT $1::timestamptz, $2::inet, $3::int[], $4::text[], $5::bytea, $6::int2, $7::int8, $8::float4, $9::float8,
         $10::bool, $11::text, $12::"char", $13::oid, 1.50::numeric::text, '{{"a": [1]}}'::jsonb::text,
         int4range(1, 9)::text, 'happy'::{schema}.mood::text, 7::{schema}.d"#
    );
    let parameters: [&(dyn ToSql + Sync); 13] = [
        &time,
        &address,
        &array,
        &texts,
        &bytes,
        &-7_i16,
        &i64::MAX,
        &1.5_f32,
        &f64::NEG_INFINITY,
        &true,
        &None::<&str>,
        &7_i8,
        &4_000_000_000_u32,
    ];
    let mut rows = client.query(&sql, &parameters).await.unwrap();
    rows.extend(client.query(&sql, &parameters).await.unwrap());
    for row in &rows {
        assert_eq!((row.get::<_, SystemTime>(0), row.get::<_, IpAddr>(1)), (time, address));
        assert_eq!(
            (row.get::<_, Vec<Option<i32>>>(2), row.get::<_, Vec<String>>(3)),
            (array.clone(), texts.iter().map(ToString::to_string).collect())
        );
        assert_eq!(
            (row.get::<_, Vec<u8>>(4), row.get::<_, i16>(5), row.get::<_, i64>(6)),
            (bytes.clone(), -7, i64::MAX)
        );
        assert_eq!((row.get::<_, f32>(7), row.get::<_, f64>(8), row.get::<_, bool>(9)), (1.5, f64::NEG_INFINITY, true));
        assert_eq!(
            (row.get::<_, Option<&str>>(10), row.get::<_, i8>(11), row.get::<_, u32>(12)),
            (None, 7, 4_000_000_000)
        );
    }
    let types: Vec<_> = rows[0].columns().iter().map(|column| column.type_().name().to_owned()).collect();
    let texts: Vec<String> = (13..17).map(|at| rows[0].get(at)).collect();
    format!("types: {types:?} {texts:?} {}", rows[0].get::<_, i32>(17))
}

/// What the checks saw, which must not depend on the port.
async fn checks(tenant: &Tenant, port: u16, schema: &str) -> Vec<String> {
    let mut saw = Vec::new();
    let (mut one, two) = (connect(tenant, port).await, connect(tenant, port).await);
    one.batch_execute(&format!("CREATE SCHEMA {schema}; CREATE TABLE {schema}.t (i int PRIMARY KEY, t text)"))
        .await
        .unwrap();

    // Pipelined: every future is on its way before the first answer, prepared statements of both called s0, s1, ….
    let queries =
        (0..100_i32).map(|i| {
            let client = if i % 2 == 0 { &one } else { &two };
            async move {
                client.query_one(&format!("SELECT $1::int + {}", i % 7), &[&i]).await.map(|row| row.get::<_, i32>(0))
            }
        });
    let answers = try_join_all(queries).await.unwrap();
    assert!(answers.iter().zip(0_i32..).all(|(answer, i)| *answer == i + i % 7), "{answers:?}");

    let (plus, bang) =
        (one.prepare("SELECT $1::int + 1").await.unwrap(), two.prepare("SELECT $1::text || '!'").await.unwrap());
    for i in 0..50 {
        let text = i.to_string();
        let parameters: (&[&(dyn ToSql + Sync)], &[&(dyn ToSql + Sync)]) = (&[&i], &[&text]);
        let both = tokio::try_join!(one.query_one(&plus, parameters.0), two.query_one(&bang, parameters.1)).unwrap();
        assert_eq!((both.0.get::<_, i32>(0), both.1.get::<_, String>(0)), (i + 1, format!("{i}!")));
    }
    let (good, bad, after) =
        tokio::join!(one.query("SELECT 1", &[]), one.query("SELECT 1/0", &[]), one.query("SELECT 2", &[]));
    saw.push(format!("pipelined error: {:?}", (good.is_ok(), bad.unwrap_err().code().cloned(), after.is_ok())));
    drop((plus, bang)); // Close and Sync, nobody waits for the answers
    let simple = one.simple_query("SELECT 1; SELECT 2, 'x'").await.unwrap();
    let rows = simple.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some((0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect::<Vec<_>>()),
        _ => None,
    });
    saw.push(format!("simple: {:?}", rows.collect::<Vec<_>>()));

    let mut transaction = one.transaction().await.unwrap();
    transaction.execute(&format!("INSERT INTO {schema}.t VALUES (1, 'one')"), &[]).await.unwrap();
    let savepoint = transaction.transaction().await.unwrap();
    let twice = savepoint.execute(&format!("INSERT INTO {schema}.t VALUES (1, 'two')"), &[]).await.unwrap_err();
    savepoint.rollback().await.unwrap();
    let portal = transaction.bind("SELECT generate_series(1, 10)", &[]).await.unwrap();
    let first: Vec<i32> = transaction.query_portal(&portal, 4).await.unwrap().iter().map(|row| row.get(0)).collect();
    let rest = transaction.query_portal(&portal, 0).await.unwrap().len();
    transaction.commit().await.unwrap();
    let dropped = one.transaction().await.unwrap();
    dropped.execute(&format!("INSERT INTO {schema}.t VALUES (2, 'never')"), &[]).await.unwrap();
    drop(dropped); // sends ROLLBACK
    let count: i64 = one.query_one(&format!("SELECT count(*) FROM {schema}.t"), &[]).await.unwrap().get(0);
    saw.push(format!("transaction: {:?} {first:?} {rest} {count}", twice.code()));

    let sink = one.copy_in(&format!("COPY {schema}.t FROM STDIN")).await.unwrap();
    let mut sink = Box::pin(sink);
    for i in 10..5000 {
        sink.send(Cursor::new(format!("{i}\trow {i}\n"))).await.unwrap();
    }
    let copied = sink.as_mut().finish().await.unwrap();
    let mut abandoned = Box::pin(one.copy_in(&format!("COPY {schema}.t FROM STDIN")).await.unwrap());
    abandoned.send(Cursor::new("7777\tnever\n")).await.unwrap();
    drop(abandoned); // CopyFail
    let out = one.copy_out(&format!("COPY {schema}.t TO STDOUT")).await.unwrap();
    let bytes = out.try_fold(0, |sum, chunk| future::ready(Ok(sum + chunk.len()))).await.unwrap();
    let mut left = Box::pin(one.query_raw("SELECT generate_series(1, 100000)", &[] as &[&str]).await.unwrap());
    left.next().await.unwrap().unwrap();
    drop(left); // the rest of the rows is thrown away by the driver
    saw.push(format!("copy: {copied} in, {bytes} bytes out"));

    saw.push(types_there_and_back(&one, schema).await);

    let token = one.cancel_token();
    let mut sleeping = Box::pin(one.batch_execute("SELECT pg_sleep(30)"));
    let cancelled = loop {
        tokio::select! {
            ended = &mut sleeping => break ended.unwrap_err(),
            () = tokio::time::sleep(Duration::from_millis(20)) => token.cancel_query(NoTls).await.unwrap(),
        }
    };
    drop(sleeping);
    assert_eq!(cancelled.code(), Some(&SqlState::QUERY_CANCELED));
    saw.push(format!("after the cancel: {}", two.query_one("SELECT 'fine'", &[]).await.unwrap().get::<_, &str>(0)));
    saw
}

/// What belongs to a session, with another client in between that has the servers, too.
async fn session(tenant: &Tenant, port: u16, schema: &str) -> Vec<String> {
    let mut saw = Vec::new();
    let (other, sender) = (connect(tenant, port).await, connect(tenant, port).await);
    let (client, mut connection) = tenant.config(port).connect(NoTls).await.unwrap();
    let (send, mut heard) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(Ok(message)) = future::poll_fn(|cx| connection.poll_message(cx)).await {
            if let AsyncMessage::Notification(notification) = message {
                let _ = send.send(notification.payload().to_owned());
            }
        }
    });
    let others = async || {
        other.batch_execute("SET work_mem = '3MB'").await.unwrap();
        assert_eq!(other.query_one("SHOW work_mem", &[]).await.unwrap().get::<_, String>(0), "3MB");
    };
    let ask = async |sql: &str| -> String {
        others().await;
        match client.simple_query(sql).await {
            Ok(messages) => {
                let rows = messages.iter().filter_map(|message| match message {
                    SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
                    _ => None,
                });
                rows.collect::<Vec<_>>().join(" ")
            }
            Err(error) => error.code().map_or("closed", SqlState::code).to_owned(),
        }
    };
    let channel = format!("{schema}_channel");
    let key = schema.bytes().fold(7_i64, |hash, byte| (hash * 31 + i64::from(byte)) % (1 << 31));
    for sql in [
        &format!("CREATE SCHEMA {schema}"),
        "SET work_mem = '7MB'; SELECT set_config('app.tenant', 'mine', false)",
        "SELECT current_setting('work_mem') || current_setting('app.tenant')",
        "BEGIN; SET work_mem = '8MB'; SAVEPOINT a; SET work_mem = '9MB'; ROLLBACK TO a; SET LOCAL app.tenant = 'x'; COMMIT",
        "SELECT current_setting('work_mem') || current_setting('app.tenant')",
        "RESET ALL",
        "SELECT current_setting('work_mem') || current_setting('app.tenant')",
        "CREATE TEMP TABLE mine AS SELECT generate_series(1, 5) AS i",
        "SELECT sum(i) FROM mine",
        "DROP TABLE mine",
        "SELECT sum(i) FROM mine",
        "DECLARE held CURSOR WITH HOLD FOR SELECT generate_series(1, 9)",
        "FETCH 3 FROM held",
        "FETCH 3 FROM held",
        "CLOSE held",
        "FETCH 3 FROM held",
        "PREPARE plus (int) AS SELECT $1 + 1",
        "EXECUTE plus (41)",
        "DEALLOCATE plus",
        "EXECUTE plus (41)",
        &format!("CREATE SEQUENCE {schema}.numbers"),
        // outside of a transaction the first currval through howdah is told what to do instead: docs/errors.md
        "BEGIN",
        &format!("SELECT nextval('{schema}.numbers')"),
        &format!("SELECT currval('{schema}.numbers')"),
        "COMMIT",
        &format!("LISTEN {channel}"),
    ] {
        saw.push(ask(sql).await);
    }
    for payload in ["one", "two"] {
        sender.execute("SELECT pg_notify($1, $2)", &[&channel, &payload]).await.unwrap();
    }
    saw.push(ask(&format!("NOTIFY {channel}, 'three'")).await);
    for _ in 0..3 {
        saw.push(tokio::time::timeout(SOON, heard.recv()).await.expect("a notification").unwrap());
    }
    saw.push(ask(&format!("UNLISTEN {channel}")).await);
    saw.push(ask("SELECT pg_listening_channels()").await);
    saw.push(ask(&format!("SELECT pg_advisory_lock({key})")).await);
    for (client, sql) in [
        (&sender, "SELECT pg_try_advisory_lock($1)"),
        (&client, "SELECT pg_advisory_unlock($1)"),
        (&sender, "SELECT pg_try_advisory_lock($1)"),
        (&sender, "SELECT pg_advisory_unlock($1)"),
    ] {
        others().await;
        saw.push(client.query_one(sql, &[&key]).await.unwrap().get::<_, bool>(0).to_string());
    }
    saw
}

#[tokio::test]

async fn what_belongs_to_a_session_belongs_to_it() {
    let tenant = Tenant::shared();
    let howdah = Howdah::shared(SESSIONS);
    let direct = session(&tenant, shared().primary().port(), "schema_0").await;
    let both = ["schema_1", "schema_2"].map(|schema| session(&tenant, howdah.port(), schema));
    let both = tokio::time::timeout(SCRIPT_MAX, future::join_all(both)).await.expect("the checks end");
    assert!(both.iter().all(|saw| *saw == direct), "{both:?}, directly {direct:?}");
}

#[tokio::test]
async fn it_works_by_default() {
    let tenant = Tenant::shared();
    let howdah = Howdah::shared(POOL);
    let direct = checks(&tenant, shared().primary().port(), "schema_0").await;
    let both = ["schema_1", "schema_2"].map(|schema| checks(&tenant, howdah.port(), schema));
    let both = tokio::time::timeout(SCRIPT_MAX, future::join_all(both)).await.expect("the checks end");
    assert!(both.iter().all(|saw| *saw == direct), "{both:?}, directly {direct:?}");
    assert_shared(&tenant);
}
