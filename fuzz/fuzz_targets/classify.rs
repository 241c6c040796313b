//! Any text has a class, the same as its fingerprint, and what the lexer and the other grammar make of the text itself is
//! not hidden by its fingerprint. What is known of a text by its shape is what is found by reading it.

#![no_main]

use howdah::sql::analysis::{Analysis, TEXT_MAX};
use howdah::sql::cache::{Bounds, ClassCache};
use howdah::sql::class::{Class, Reason, Verdict};
use howdah::sql::effects::Effects;
use howdah::sql::fingerprint;
use howdah::sql::knowledge::Assumed;
use howdah::sql::second_opinion::Opinion;
use libfuzzer_sys::fuzz_target;

thread_local! {
    /// Small, so that it forgets.
    static CACHE: ClassCache = ClassCache::new(Bounds { entries: 64, bytes: 100_000 });
    /// Knows nothing of texts that came before.
    static FRESH: ClassCache = ClassCache::new(Bounds { entries: 1, bytes: 1 });
}

fuzz_target!(|sql: &[u8]| {
    if sql.len() > TEXT_MAX {
        return;
    }
    let (mut once, mut twice) = (Vec::new(), Vec::new());
    fingerprint::write(sql, true, &mut once);
    fingerprint::write(&once, true, &mut twice);
    assert_eq!(once, twice);
    let _ = fingerprint::shown(&once);
    let read = (Effects::of(sql), FRESH.with(|fresh| fresh.fingerprint(sql)));
    // from the third time on it is known by its shape, and so are those that the fuzzer makes of it
    assert!((0..3).all(|_| CACHE.with(|cache| cache.read(sql)) == read));
    let verdict = Analysis::of(sql, true).verdict(&Assumed::ALL_READ);
    assert_eq!(verdict, CACHE.with(|cache| cache.analyse(sql, true).verdict(&Assumed::ALL_READ)));
    if verdict != Verdict::new(Class::Read, Reason::Reads) {
        return;
    }
    // a read is text, whole, and no statement that the other grammar knows to write
    let text = std::str::from_utf8(sql).expect("a read is UTF-8");
    let lower = text.to_ascii_lowercase();
    if ![";", "table", "copy", "explain"].iter().any(|word| lower.contains(word)) {
        let opinion = Opinion::of(text);
        assert!(matches!(opinion, Opinion::Reads | Opinion::Silent), "{opinion:?}");
    }
});
