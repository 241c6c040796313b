//! Where a stopped server's log ends.
//!
//! The control file says where the last checkpoint's record begins, and its length stands in its first four bytes
//! (`XLogRecord.xl_tot_len`; a record begins at a multiple of eight, so no page ends in there). Where it ends is what a standby that
//! has replayed it says (`pg_last_wal_replay_lsn()`): page headers in between are counted.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::control::{ControlFile, State};
use super::files::trouble;
use crate::directive::{Code, Failure};
use crate::pg::{LogLayout, Lsn, Timeline};

/// `SizeOfXLogShortPHD` and `SizeOfXLogLongPHD` of `xlog_internal.h`.
const SHORT_HEADER: u64 = 24;
const LONG_HEADER: u64 = 40;
/// What a checkpoint's record is at least, and never is.
const LENGTHS: std::ops::Range<u64> = 24..65_536;

/// The end of the log of a server that was stopped cleanly, and its timeline; `None` for one that was not: only recovery finds its
/// end. A standby's is the position up to which nothing may be missing; it may have received more.
///
/// # Errors
/// When the log cannot be read.
pub fn end(data_directory: &Path, control: &ControlFile) -> Result<Option<(Timeline, Lsn)>, Failure> {
    match control.state {
        State::ShutDown => {
            let length = record_length(data_directory, control)?;
            Ok(Some((control.timeline, behind(control.checkpoint, length, control.layout))))
        }
        State::ShutDownInRecovery | State::InArchiveRecovery => {
            let timeline = control.min_recovery_timeline.max(control.timeline);
            // the restart point's record has been replayed, of course
            Ok(Some((timeline, control.min_recovery.max(control.redo))))
        }
        _ => Ok(None),
    }
}

fn record_length(data_directory: &Path, control: &ControlFile) -> Result<u64, Failure> {
    let LogLayout { segment_size, .. } = control.layout;
    let broken =
        |why: &str| Failure::new(Code::WrongState, format!("checkpoint record at {}: {why}", control.checkpoint));
    let number = control.checkpoint.0.checked_div(segment_size).ok_or_else(|| broken("no segment size"))?;
    let offset = control.checkpoint.0.checked_rem(segment_size).ok_or_else(|| broken("no segment size"))?;
    let per_id = 0x1_0000_0000_u64.checked_div(segment_size).filter(|per_id| *per_id > 0);
    let per_id = per_id.ok_or_else(|| broken("a segment size that is none"))?;
    let (id, segment) = (number.checked_div(per_id).unwrap_or(0), number.checked_rem(per_id).unwrap_or(0));
    let name = format!("{:08X}{id:08X}{segment:08X}", control.timeline.0);
    let path = data_directory.join("pg_wal").join(name);
    let mut bytes = [0; 4];
    File::open(&path).and_then(|file| file.read_exact_at(&mut bytes, offset)).map_err(trouble("read", &path))?;
    let length = u64::from(u32::from_le_bytes(bytes));
    if LENGTHS.contains(&length) { Ok(length) } else { Err(broken(&format!("a length of {length} bytes"))) }
}

/// The end of a record of this length: at a multiple of eight, with the headers of the pages it goes on in.
fn behind(start: Lsn, length: u64, layout: LogLayout) -> Lsn {
    let mut at = start.0;
    let mut left = length.next_multiple_of(8);
    loop {
        let in_page = at.checked_rem(layout.block_size).unwrap_or(0);
        let room = layout.block_size.saturating_sub(in_page);
        if left <= room || room == 0 {
            return Lsn(at.saturating_add(left));
        }
        left = left.saturating_sub(room);
        at = at.saturating_add(room);
        let first = at.checked_rem(layout.segment_size) == Some(0);
        at = at.saturating_add(if first { LONG_HEADER } else { SHORT_HEADER });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYOUT: LogLayout = LogLayout { segment_size: 16 << 20, block_size: 8192 };

    #[test]
    fn a_record_ends_at_a_multiple_of_eight_behind_the_headers_in_it() {
        let end = |start: u64, length: u64| behind(Lsn(start), length, LAYOUT).0;
        assert_eq!(end(0x500_0028, 114), 0x500_0028 + 120);
        assert_eq!(end(0x500_1F88, 114), 0x500_2000, "as far as the page goes");
        assert_eq!(end(0x500_1FB0, 114), 0x500_2000 + 24 + 40, "into the next page");
        assert_eq!(end(0x5FF_FFB0, 114), 0x600_0000 + 40 + 40, "into the next segment");
        assert_eq!(end(0x500_1FE8, 10_000), 0x500_4000 + 24 + (10_000 - 24 - 8168), "over several pages");
    }
}
