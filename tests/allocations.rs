//! What the data path must not do: allocate, for a statement that is known already.
//!
//! One test runs the daemon in this process, and counts what its worker's thread asks for.

#![allow(clippy::unwrap_used, missing_docs)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use howdah::cli::serve::{ServeArgs, run};
use howdah::demo::ports::free_port;
use howdah::demo::postgres::LocalCluster;
use howdah::protocol::messages;
use howdah::sql::cache::{Bounds, ClassCache};
use howdah::sql::class::Class;
use howdah::sql::effects::Effects;
use howdah::sql::knowledge::Assumed;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
    static IS_WORKER: Cell<bool> = const { Cell::new(false) };
}

/// How often the daemon's only worker has asked, once it is known for one.
static OF_WORKER: AtomicU64 = AtomicU64::new(0);
/// After so many a thread looks whether it is the worker's.
const LOOKS_AFTER: u64 = 64;

/// Counts one of this thread.
fn count() {
    let _ = COUNT.try_with(|count| {
        count.set(count.get() + 1);
        if count.get() == LOOKS_AFTER && std::thread::current().name() == Some("worker-0") {
            let _ = IS_WORKER.try_with(|is| is.set(true));
        }
    });
    if IS_WORKER.try_with(Cell::get) == Ok(true) {
        OF_WORKER.fetch_add(1, Ordering::Relaxed);
    }
}

/// The system's allocator, and how often this thread has asked it for memory.
struct Counting;

// SAFETY: every call goes to `System` as it came; the counter neither allocates nor unwinds.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are those of `System`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as above; `at` came from `System`, as all does here.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How often `work` allocates.
fn allocations(work: impl FnOnce()) -> u64 {
    let before = COUNT.get();
    work();
    COUNT.get() - before
}

const STATEMENTS: [&str; 5] = [
    "SELECT abalance FROM pgbench_accounts WHERE aid = 1",
    "/* howdah: replica */ SELECT count(*) FROM a JOIN b USING (c) WHERE d IN (1, 2, 3) AND e = 'x' OR f = $2",
    "INSERT INTO t VALUES (1, 'x')",
    "BEGIN READ ONLY",
    "SELECT 'no end",
];

#[test]
fn a_statement_that_is_known_costs_no_allocation() {
    let cache = ClassCache::default();
    for sql in STATEMENTS {
        let first = allocations(|| drop(cache.analyse(sql.as_bytes(), true)));
        assert!(first > 0, "the counter counts");
        let other = sql.replace("1", "23456").replace("'x'", "'something else'");
        cache.analyse(other.as_bytes(), true).verdict(&Assumed::ALL_READ);
        let again = allocations(|| {
            let analysis = cache.analyse(other.as_bytes(), true);
            let class = analysis.verdict(&Assumed::ALL_READ).class;
            assert_eq!(class == Class::Read, analysis.settled().is_none());
        });
        assert_eq!(again, 0, "{sql}");
    }
    let long = "SELECT 1 + ".repeat(10_000);
    assert_eq!(allocations(|| drop(cache.analyse(long.as_bytes(), true))), 0);
    assert_eq!(cache.hits_and_misses(), (2 * 5, 5));
    // and for what is known by its shape
    let read = |n: usize| {
        for sql in STATEMENTS {
            let sql = sql.replace('1', ["1", "23456"][n % 2]);
            let read = allocations(|| assert_eq!(cache.read(sql.as_bytes()).0, Effects::of(sql.as_bytes())));
            assert!(n < 3 || read == 0, "{sql}");
        }
    };
    (0..20).for_each(read);
}

#[test]
fn the_cache_keeps_its_bounds_and_what_is_asked_for() {
    let cache = ClassCache::new(Bounds { entries: 1000, bytes: 200_000 });
    let often = "SELECT often";
    let mut kept = Arc::clone(&cache.analyse(often.as_bytes(), false));
    let mut lost = 0;
    for i in 0..20_000 {
        let _ = cache.analyse(format!("SELECT column{i} FROM t").as_bytes(), false);
        assert!(cache.bytes() <= 200_000 && cache.len() <= 1024, "{} bytes, {} entries", cache.bytes(), cache.len());
        if i % 10 == 0 {
            let now = cache.analyse(often.as_bytes(), false);
            lost += u32::from(!Arc::ptr_eq(&now, &kept));
            kept = now;
        }
    }
    assert!(cache.len() > 400, "{}", cache.len());
    assert_eq!(lost, 0);
    // one that alone is more than may be kept
    let tiny = ClassCache::new(Bounds { entries: 1, bytes: 1 });
    assert!(tiny.analyse(b"SELECT 1", false).settled().is_none() && tiny.is_empty());
}

/// A client that knows just enough.
struct Client(TcpStream);

impl Client {
    fn login(port: u16) -> Option<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
        stream.set_nodelay(true).unwrap();
        let mut client = Self(stream);
        let mut out = Vec::new();
        messages::startup(&mut out, 0, &[(b"user", b"postgres"), (b"database", b"postgres")]);
        client.ask(&out);
        Some(client)
    }

    /// Everything up to ReadyForQuery.
    fn ask(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.0.write_all(bytes).unwrap();
        let (mut seen, mut some) = (Vec::new(), [0; 4096]);
        while !seen.ends_with(b"Z\0\0\0\x05I") {
            let read = self.0.read(&mut some).unwrap();
            assert!(read > 0, "{}", String::from_utf8_lossy(&seen));
            seen.extend_from_slice(some.get(..read).unwrap());
        }
        seen
    }

    fn query(&mut self, sql: &str) -> Vec<u8> {
        let mut out = Vec::new();
        messages::query(&mut out, sql.as_bytes());
        self.ask(&out)
    }

    /// Whether a read goes to a standby.
    fn reads_from_standby(&mut self) -> bool {
        let answer = self.query("SELECT pg_is_in_recovery()");
        answer.windows(5).any(|bytes| bytes == b"\0\0\0\x01t")
    }
}

#[test]
fn reads_by_way_of_a_standby_cost_no_allocation() {
    const BOUND: Duration = Duration::from_secs(30);
    const READS: u64 = 1_000;
    let cluster = LocalCluster::builder().standby("b").start().unwrap_or_else(|error| panic!("{error}"));
    let (port, password) = (free_port().unwrap(), cluster.primary().password());
    let mut config = format!(
        "[limits]\nworkers = 1\n[[listeners]]\naddress = \"127.0.0.1:{port}\"\n[auth]\nmethod = \"trust\"\n\
         [users.postgres]\npassword = \"{password}\"\n[clusters.main.monitor]\nuser = \"postgres\"\n\
         password = \"{password}\"\n[databases.\"*\"]\ncluster = \"main\"\n[http]\naddress = \"off\"\n[log]\nlevel = \"warn\"\n"
    );
    for node in cluster.nodes() {
        let (name, host, port) = (node.name(), node.host(), node.port());
        config += &format!("[[clusters.main.nodes]]\nname = \"{name}\"\nhost = \"{host}\"\nport = {port}\n");
    }
    let path = cluster.directory().join("howdah.toml");
    std::fs::write(&path, config).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    std::thread::spawn(move || run(&ServeArgs { config: path }).unwrap());

    let until = Instant::now() + BOUND;
    let mut client = loop {
        assert!(Instant::now() < until, "howdah does not listen");
        match Client::login(port) {
            Some(client) => break client,
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    while !client.reads_from_standby() {
        assert!(Instant::now() < until, "no read goes to the standby");
        std::thread::sleep(Duration::from_millis(20));
    }
    let (mut prepare, mut execute) = (Vec::new(), Vec::new());
    messages::parse(&mut prepare, b"s", b"SELECT count(*) FROM pg_class WHERE oid = 1");
    prepare.extend_from_slice(&messages::SYNC);
    client.ask(&prepare);
    messages::bind(&mut execute, b"s", &[]);
    messages::execute(&mut execute);
    execute.extend_from_slice(&messages::SYNC);
    let mut read = |number: u64| {
        client.query(&format!("SELECT relname FROM pg_class WHERE oid = {number} AND relname <> 'n{number}'"));
        client.ask(&execute);
    };
    (0..200).for_each(&mut read);
    let before = OF_WORKER.load(Ordering::Relaxed);
    (0..READS).for_each(&mut read);
    let allocated = OF_WORKER.load(Ordering::Relaxed) - before;
    assert!(before > 0, "the counter counts");
    // what the worker does once a second has a share in it
    assert!(allocated < READS / 50, "{allocated} allocations for {} reads", READS * 2);
    assert!(client.reads_from_standby());
}
