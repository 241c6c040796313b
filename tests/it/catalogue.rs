//! What other poolers fell for: the advisories of the peers, in plain words, each with its test.
//!
//! | what | where it is tried |
//! |---|---|
//! | a second StartupMessage while a login is on its way | `bad_input::something_else_than_a_password_is_refused`, and the tests of authentication |
//! | `options` with an empty name (`-c=`) | the tests of the transport |
//! | a packet or message length above 2^31, or below its own header | `bad_input::a_bad_first_packet_…`, `bad_input::impossible_lengths_…` |
//! | a client's SCRAM message longer than any buffer, or without its attributes | `protocol::scram`, and the tests of authentication |
//! | a server's nonce that is very long, attributes missing | here |
//! | a server's ErrorResponse without SQLSTATE | here |
//! | `search_path` at login together with `auth_query`; an expired `VALID UNTIL` | the tests of authentication |
//! | a stats user who issues KILL_CLIENT | there is no console yet |
//! | bytes in front of TLS; a client that vanishes in the TLS handshake | the tests of the transport, `tls::a_listener_that_requires_tls_…` |
//! | Bind with a name that was never parsed, behind a failed Parse | here, and `pipelines` |
//! | statements whose hashes collide | here, and `proxy::statements` |
//! | a flood of cancels | `cancel::a_storm_of_cancels_…`, and the tests of the transport |
//! | a client that vanishes in a COPY or in a pipeline | `copy::a_client_that_vanishes_…`, `bad_input::clients_that_vanish_at_any_stage_…` |
//! | a server that closes between Parse and Bind | here |
//! | storms of ParameterStatus | here |
//! | a password message of 64 KiB | the tests of authentication |
//! | a DataRow of 1 GiB, in bounded memory | here; 200 MB of PostgreSQL's own in `copy::a_hundred_megabytes_…` |

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use crate::fake::{self, FakeNode};
use crate::support::script::{Stage, simple, turn};
use crate::support::wire::{self, Client, bind, describe, execute, flush, parse, query, sync};
use crate::support::{Howdah, SOON, Tenant, eventually, rss_bytes};

/// What howdah may need besides, while gigabytes pass.
const MEMORY_MAX: u64 = 8_000_000;

/// A server that lets everybody in and answers everything; what `answer` writes for a message (`Some`) goes first.
fn fake(user: &str, answer: impl Fn(&mut TcpStream, u8, &str) -> io::Result<bool> + Send + Sync + 'static) -> FakeNode {
    FakeNode::start(user, move |mut socket| {
        let mut serve = || -> io::Result<()> {
            socket.write_all(&fake::welcome())?;
            loop {
                let (tag, body) = fake::read_message(&mut socket)?;
                let text = String::from_utf8_lossy(&body).into_owned();
                if answer(&mut socket, tag, &text)? {
                    continue;
                }
                let usual = match tag {
                    b'Q' => [fake::row("fine"), fake::ready(b'I')].concat(),
                    b'P' => wire::tagged(b'1', b""),
                    b'B' => wire::tagged(b'2', b""),
                    b'E' => wire::tagged(b'C', b"SELECT 0\0"),
                    b'C' => wire::tagged(b'3', b""),
                    b'D' => wire::tagged(b'n', b""),
                    b'S' => fake::ready(b'I'),
                    b'X' => return Ok(()),
                    _ => vec![],
                };
                socket.write_all(&usual)?;
            }
        };
        let _: io::Result<()> = serve();
        let _ = socket.shutdown(Shutdown::Both);
    })
}

fn login(howdah: &Howdah, tenant: &Tenant) -> Client {
    let mut client = howdah.wire();
    client.login(&tenant.name, "", &tenant.name);
    client
}

#[test]
fn an_error_of_a_server_that_names_no_sqlstate_is_passed_on_and_harms_nobody() {
    let errors: [&'static [u8]; 4] = [b"SERROR\0Mno code\0\0", b"\0", b"", b"SERROR\0VERROR\0C\0Mempty code\0\0"];
    for (at, body) in errors.into_iter().enumerate() {
        let tenant = Tenant::shared();
        let node = fake(&tenant.name, move |socket, tag, text| {
            let failing = text.contains("codeless");
            match tag {
                b'Q' if failing => socket.write_all(&[wire::tagged(b'E', body), fake::ready(b'I')].concat())?,
                // the rest of the batch is not answered until its Sync
                b'P' if failing => {
                    socket.write_all(&wire::tagged(b'E', body))?;
                    while fake::read_message(socket)?.0 != b'S' {}
                    socket.write_all(&fake::ready(b'I'))?;
                }
                _ => return Ok(false),
            }
            Ok(true)
        });
        let howdah = node.howdah("[pool]\nsize = 1\n");
        let (mut client, mut other) = (login(&howdah, &tenant), login(&howdah, &tenant));
        let batch = [parse("", "SELECT codeless", &[]), bind("", "", &[]), execute("", 0), sync()].concat();
        for request in [query("SELECT codeless"), batch] {
            client.send(&request);
            let said = client.read_until_ready();
            let tags: Vec<_> = said.iter().map(|m| m.tag).collect();
            assert_eq!(tags, b"EZ", "error {at}: {said:?}");
            assert_eq!(said[0].body, body, "as the server said it");
            assert_eq!(other.value("SELECT"), "fine");
            assert_eq!(client.value("SELECT"), "fine");
        }
        assert!(!howdah.log().contains("panicked"), "{}", howdah.log());
    }
}

#[test]
fn an_error_without_sqlstate_in_place_of_a_login_is_told_to_the_client() {
    for body in [&b"SFATAL\0Mgo away\0\0"[..], b"\0", b""] {
        let tenant = Tenant::shared();
        let node = FakeNode::start(&tenant.name, move |mut socket| {
            let _ = socket.write_all(&wire::tagged(b'E', body));
        });
        let howdah = node.howdah("[timeouts]\nquery_wait = \"2s\"\n");
        let mut client = howdah.wire();
        let said = client.try_login(&[("user", &tenant.name), ("database", &tenant.name)], "").unwrap();
        let error = match said.iter().find(|m| m.tag == b'E') {
            Some(error) => error.fields(),
            None => wire::error(&client.query("SELECT 1")),
        };
        assert_eq!(error.code.len(), 5, "{error:?}");
        assert!(!howdah.log().contains("panicked"), "{}", howdah.log());
    }
}

#[test]
fn a_server_that_abuses_scram_is_given_up_at_once_and_in_bounded_memory() {
    const SALT: &str = "c2FsdHNhbHRzYWx0";
    // what follows the client's own nonce in the server's first message
    let abuses: [(&str, String); 8] = [
        ("a nonce of 20 kB", format!("{},s={SALT},i=4096", "x".repeat(20_000))),
        ("a nonce of 50 MB", format!("{},s={SALT},i=4096", "x".repeat(50_000_000))),
        ("no salt", "x,i=4096".to_owned()),
        ("no iterations", format!("x,s={SALT}")),
        ("no attributes", String::new()),
        ("iterations without end", format!("x,s={SALT},i=2147483647")),
        ("no iterations at all", format!("x,s={SALT},i=0")),
        ("a mandatory extension", format!("x,m=unknown,s={SALT},i=4096")),
    ];
    for (what, tail) in abuses {
        let tenant = Tenant::shared();
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let node = FakeNode::start(&tenant.name, move |mut socket| {
            let mut serve = || -> io::Result<()> {
                socket.write_all(&wire::tagged(b'R', b"\0\0\0\x0aSCRAM-SHA-256\0\0"))?;
                let (_, initial) = fake::read_message(&mut socket)?;
                let initial = String::from_utf8_lossy(&initial).into_owned();
                let nonce = initial.rsplit("r=").next().unwrap_or_default();
                count.fetch_add(1, Ordering::SeqCst);
                let first = [b"\0\0\0\x0b", format!("r={nonce}{tail}").as_bytes()].concat();
                socket.write_all(&wire::tagged(b'R', &first))?;
                while socket.read(&mut [0; 1024])? > 0 {}
                Ok(())
            };
            let _: io::Result<()> = serve();
        });
        let secret = format!("[users.{}]\npassword = \"known\"\n\n", tenant.name);
        let howdah = node.howdah(&format!("{secret}[timeouts]\nquery_wait = \"500ms\"\n"));
        let before = rss_bytes(howdah.pid());
        let mut client = howdah.wire();
        let said = client.try_login(&[("user", &tenant.name), ("database", &tenant.name)], "").unwrap();
        let error = match said.iter().find(|m| m.tag == b'E') {
            Some(error) => error.fields(),
            None => wire::error(&client.query("SELECT 1")),
        };
        assert!(asked.load(Ordering::SeqCst) > 0, "{what}: the server was not asked: {error:?}");
        assert!(["08006", "08001", "08P01", "57P03", "53300"].contains(&error.code.as_str()), "{what}: {error:?}");
        let after = rss_bytes(howdah.pid());
        assert!(after < before + MEMORY_MAX, "{what}: from {before} to {after} bytes");
        assert!(!howdah.log().contains("panicked"), "{}", howdah.log());
    }
}

#[test]
fn a_name_that_was_never_parsed_is_never_anything_else() {
    let stage = Stage::new("");
    let failed = |sql: &str| [parse("never", sql, &[]), bind("", "never", &[]), execute("", 0), sync()].concat();
    for _ in 0..2 {
        stage.play(
            "",
            &[
                // the thieves have parsed a statement "s"
                turn([bind("", "s", &[Some("x")]), execute("", 0), sync()]),
                turn([failed("SELEC"), vec![]]),
                turn([bind("", "never", &[]), execute("", 0), sync()]),
                turn([describe(b'S', "never"), sync()]),
                turn([failed("SELECT * FROM nowhere"), vec![]]),
                turn([bind("", "never", &[]), describe(b'P', ""), execute("", 0), sync()]),
                // in a block, in which the Parse fails and the Bind is refused
                simple("BEGIN"),
                turn([failed("SELEC"), vec![]]),
                turn([bind("", "never", &[]), execute("", 0), sync()]),
                simple("ROLLBACK"),
                turn([bind("", "never", &[]), execute("", 0), sync()]),
                // unnamed: what was there before a Parse that failed is gone
                turn([parse("", "SELECT 1", &[]), sync()]),
                turn([parse("", "SELEC", &[]), sync()]),
                turn([bind("", "", &[]), execute("", 0), sync()]),
                turn([parse("never", "SELECT 'now'", &[]), bind("", "never", &[]), execute("", 0), sync()]),
                turn([wire::close(b'S', "never"), sync()]),
            ],
        );
    }
}

#[test]
fn thousands_of_statements_that_differ_in_a_byte_or_a_type_are_not_mixed_up() {
    let stage = Stage::new("prepared_statements = 100");
    let mut clients = [stage.login("one"), stage.login("two"), stage.login("two")];
    for round in 0..2 {
        for at in 0..600_u32 {
            for (which, client) in clients.iter_mut().enumerate() {
                // the same length, the same beginning, the same end
                let sql = format!("/* {} */ SELECT '{at:08}', pg_typeof($1) /* {} */", "x".repeat(50), "y".repeat(50));
                let oid = [23, 20, 25][(usize::try_from(at).unwrap() + which + round) % 3];
                let name = format!("s{}", at % 7);
                let mut batch = wire::close(b'S', &name);
                batch.extend(parse(&name, &sql, &[oid]));
                batch.extend([bind("", &name, &[Some("1")]), execute("", 0), sync()].concat());
                client.send(&batch);
                let said = client.read_until_ready();
                let row = said.iter().find(|m| m.tag == b'D').unwrap_or_else(|| panic!("{said:?}"));
                let name = ["integer", "bigint", "text"][[23, 20, 25].iter().position(|o| *o == oid).unwrap()];
                assert_eq!(row.columns(), [Some(format!("{at:08}")), Some(name.to_owned())]);
            }
        }
    }
}

#[test]
fn a_server_that_closes_between_parse_and_bind_ends_that_batch_and_nothing_else() {
    let tenant = Tenant::shared();
    let node = fake(&tenant.name, |socket, tag, text| {
        if tag != b'P' || !text.contains("doomed") {
            return Ok(false);
        }
        socket.write_all(&wire::tagged(b'1', b""))?;
        Err(io::ErrorKind::UnexpectedEof.into())
    });
    let howdah = node.howdah("[pool]\nsize = 1\n\n[timeouts]\nquery_wait = \"5s\"\n");
    let (mut client, mut other) = (login(&howdah, &tenant), login(&howdah, &tenant));
    for name in ["", "named"] {
        // all of it in one write; and the Bind after the server has gone
        client.send(&[parse(name, "doomed", &[]), bind("", name, &[]), execute("", 0), sync()].concat());
        let said = client.read_until_ready();
        assert_eq!(wire::short(&said).last().unwrap(), "Z:I", "{said:?}");
        assert!(wire::error(&said).code.starts_with("08"), "{said:?}");
        assert_eq!(client.value("SELECT"), "fine");

        client.send(&[parse(name, "doomed", &[]), flush()].concat());
        let first = client.expect();
        client.send(&[bind("", name, &[]), execute("", 0), sync()].concat());
        let said = [vec![first], client.read_until_ready()].concat();
        assert_eq!(wire::short(&said).last().unwrap(), "Z:I", "{said:?}");
        // where nothing had been executed yet, that is sure
        let code = wire::error(&said).code.clone();
        assert!(code.starts_with("08") || code == "40001", "{said:?}");
        assert_eq!(other.value("SELECT"), "fine");
        assert_eq!(client.value("SELECT"), "fine");
        client.send(&[wire::close(b'S', name), sync()].concat());
        assert_eq!(wire::short(&client.read_until_ready()).last().unwrap(), "Z:I");
    }
    eventually("the books are right", SOON, || {
        let pool = &howdah.status()["pools"][0];
        pool["open"] == 1 && pool["idle"] == 1
    });
}

#[test]
fn storms_of_parameters_are_bounded_and_told_to_nobody_else() {
    const COUNT: usize = 200_000;
    let tenant = Tenant::shared();
    let node = fake(&tenant.name, |socket, tag, text| {
        if tag != b'Q' || !text.contains("storm") {
            return Ok(false);
        }
        // many of one name, many of many names, in between rows, each value another
        for block in 0..COUNT / 1_000 {
            let mut bytes = Vec::new();
            for at in 0..1_000 {
                let name = if text.contains("names") { format!("name_{block}_{at}") } else { "TimeZone".to_owned() };
                bytes.extend(wire::tagged(b'S', format!("{name}\0value {block} {at} {}\0", "v".repeat(50)).as_bytes()));
            }
            socket.write_all(&bytes)?;
        }
        socket.write_all(&[fake::row("over"), fake::ready(b'I')].concat())?;
        Ok(true)
    });
    let howdah = node.howdah("[pool]\nsize = 2\n");
    let (mut client, mut other) = (login(&howdah, &tenant), login(&howdah, &tenant));
    assert_eq!((client.value("SELECT"), other.value("SELECT")), ("fine".to_owned(), "fine".to_owned()));
    let before = rss_bytes(howdah.pid());
    // of one parameter the last value counts; a server that goes on with new ones is given up
    let (told, known) = (["T", "D", "C:SELECT 1", "S:TimeZone=…", "Z:I"], ["T", "D", "C:SELECT 1", "Z:I"]);
    for (storm, expected) in [("storm", &told[..]), ("storm of names", &["E:08007", "Z:I"]), ("storm", &known)] {
        let begun = Instant::now();
        client.send(&query(storm));
        let said: Vec<_> =
            wire::short(&client.read_until_ready())
                .into_iter()
                .map(|message| {
                    if message.starts_with("S:TimeZone=value 199 999") { "S:TimeZone=…".to_owned() } else { message }
                })
                .collect();
        assert_eq!(said, expected, "{storm}");
        assert!(begun.elapsed() < SOON, "{storm}: {:?}", begun.elapsed());
        assert_eq!(other.query_short("SELECT").first().unwrap(), "T", "another client is told nothing of it");
    }
    let after = rss_bytes(howdah.pid());
    assert!(after < before + 2 * MEMORY_MAX, "from {before} to {after} bytes");
}

#[test]
fn a_row_of_a_gibibyte_streams_through_in_bounded_memory() {
    const GIB: usize = 1 << 30;
    let tenant = Tenant::shared();
    let node = fake(&tenant.name, |socket, tag, text| {
        if tag != b'Q' || !text.contains("gibibyte") {
            return Ok(false);
        }
        let row = fake::row("");
        let description = 1 + usize::from(row[4]); // up to the end of the RowDescription
        socket.write_all(&row[..description])?;
        let mut head = vec![b'D'];
        head.extend(u32::try_from(4 + 2 + 4 + GIB).unwrap().to_be_bytes());
        head.extend([0, 1]);
        head.extend(u32::try_from(GIB).unwrap().to_be_bytes());
        socket.write_all(&head)?;
        let chunk = vec![b'x'; 1 << 20];
        for _ in 0..GIB >> 20 {
            socket.write_all(&chunk)?;
        }
        socket.write_all(&[wire::tagged(b'C', b"SELECT 1\0"), fake::ready(b'I')].concat())?;
        Ok(true)
    });
    let howdah = node.howdah("[pool]\nsize = 1\n");
    let mut other = login(&howdah, &tenant);
    assert_eq!(other.value("SELECT"), "fine");
    let before = rss_bytes(howdah.pid());
    let mut client = login(&howdah, &tenant);
    client.send(&query("a gibibyte"));
    assert_eq!(client.expect().short(), "T");
    let mut stream = client.into_transport();
    let mut header = [0; 5 + 6];
    stream.read_exact(&mut header).unwrap();
    assert_eq!((header[0], &header[7..]), (b'D', &u32::try_from(GIB).unwrap().to_be_bytes()[..]));
    let (mut chunk, mut most) = (vec![0; 1 << 20], 0);
    for at in 0..GIB >> 20 {
        stream.read_exact(&mut chunk).unwrap();
        assert!(chunk.iter().all(|byte| *byte == b'x'));
        if at % 64 == 0 {
            most = most.max(rss_bytes(howdah.pid()));
        }
    }
    let mut client = Client::over(stream);
    assert_eq!(wire::short(&client.read_until_ready()), ["C:SELECT 1", "Z:I"]);
    assert!(most < before + MEMORY_MAX, "from {before} to {most} bytes");
    assert_eq!(other.value("SELECT"), "fine");
}
