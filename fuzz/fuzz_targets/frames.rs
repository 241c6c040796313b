//! The scanners: a stream of bytes holds the same messages however it is cut into reads.

#![no_main]

use howdah::protocol::error_response::{self, ServerError, Severity};
use howdah::protocol::frame::{FrameError, HEADER_LEN, LARGE_LIMIT, Scan, scan_client, scan_header, split_cstr};
use howdah::sql::opening::Opening;
use libfuzzer_sys::fuzz_target;

type Scanner = fn(&[u8]) -> Result<Scan, FrameError>;

fuzz_target!(|input: (Vec<u8>, Vec<u8>)| {
    let (bytes, cuts) = input;
    for (scan, longest) in [(scan_client as Scanner, LARGE_LIMIT), (scan_header as Scanner, i32::MAX.cast_unsigned())] {
        let whole = frames(scan, &bytes, &[]);
        assert_eq!(whole, frames(scan, &bytes, &cuts), "the cuts changed what was read");
        assert!(whole.0.iter().all(|(_, body_len, _)| *body_len <= longest));
    }
    if let Some((text, rest)) = split_cstr(&bytes) {
        assert_eq!(text.len() + 1 + rest.len(), bytes.len());
        assert!(!text.contains(&0));
    }
    let _ = Opening::of(&bytes);
    let error = ServerError::read(&bytes);
    let _ = error.text();
    let mut relabelled = Vec::new();
    error_response::relabel(&mut relabelled, Severity::Error, &bytes);
    assert!(matches!(scan_header(&relabelled), Ok(Scan::Header { tag: b'E', .. })));
});

/// Tags, lengths and places of the messages that arrive in reads of these sizes, and how the stream ended.
fn frames(scan: Scanner, bytes: &[u8], cuts: &[u8]) -> (Vec<(u8, u32, usize)>, Option<FrameError>) {
    let mut found = Vec::new();
    let (mut here, mut at, mut left) = (0, 0, 0_usize);
    let mut cuts = cuts.iter().copied();
    while here < bytes.len() {
        here = bytes.len().min(here + cuts.next().map_or(bytes.len(), |cut| usize::from(cut).max(1)));
        loop {
            let gone = left.min(here - at);
            (at, left) = (at + gone, left - gone);
            if left > 0 {
                break;
            }
            match scan(&bytes[at..here]) {
                Ok(Scan::Header { tag, body_len }) => {
                    assert!(scan_header(&bytes[at..here]).is_ok(), "one scanner is a part of the other");
                    found.push((tag, body_len, at));
                    at += HEADER_LEN;
                    left = body_len as usize;
                }
                Ok(Scan::More(missing)) => {
                    assert_eq!(missing, HEADER_LEN - (here - at));
                    break;
                }
                Err(error) => return (found, Some(error)),
            }
        }
    }
    (found, None)
}
