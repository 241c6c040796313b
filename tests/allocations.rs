//! What the data path must not do: allocate, for a statement that is known already.

#![allow(clippy::unwrap_used, missing_docs)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

use howdah::sql::cache::{Bounds, ClassCache};
use howdah::sql::class::Class;
use howdah::sql::knowledge::{Knowledge, Standing};

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, and how often this thread has asked it for memory.
struct Counting;

// SAFETY: every call goes to `System` as it came; the counter neither allocates nor unwinds.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = COUNT.try_with(|count| count.set(count.get() + 1));
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

struct AllRead;

impl Knowledge for AllRead {
    fn generation(&self) -> u64 {
        7
    }
    fn function(&self, _: &[u8]) -> Standing {
        Standing::Reads
    }
    fn writes(&self, _: &[u8]) -> bool {
        false
    }
    fn writes_everywhere(&self) -> bool {
        false
    }
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
        cache.analyse(other.as_bytes(), true).verdict(&AllRead);
        let again = allocations(|| {
            let analysis = cache.analyse(other.as_bytes(), true);
            let class = analysis.verdict(&AllRead).class;
            assert_eq!(class == Class::Read, analysis.settled().is_none());
        });
        assert_eq!(again, 0, "{sql}");
    }
    let long = "SELECT 1 + ".repeat(10_000);
    assert_eq!(allocations(|| drop(cache.analyse(long.as_bytes(), true))), 0);
    assert_eq!(cache.hits_and_misses(), (2 * 5, 5));
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
