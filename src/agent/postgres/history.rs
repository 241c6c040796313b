//! Timelines as the data directory knows them: history files, and the names of log segments.

use std::fs;
use std::path::Path;

use super::files;
use crate::directive::{Code, Failure, History};
use crate::pg::{Lsn, Timeline};

/// How a timeline came to be, from its history file; timeline 1 has none.
///
/// # Errors
/// [`Code::WrongState`] when the file is not there or does not read.
pub fn of(data_directory: &Path, timeline: Timeline) -> Result<History, Failure> {
    if timeline.0 <= 1 {
        return Ok(History { timeline, forks: Vec::new() });
    }
    let path = data_directory.join("pg_wal").join(format!("{:08X}.history", timeline.0));
    let text = files::read(&path)?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let forks = text.as_deref().and_then(parse);
    let unread = || Failure::new(Code::WrongState, format!("{} is missing, or does not read", path.display()));
    Ok(History { timeline, forks: forks.ok_or_else(unread)? })
}

/// As `readTimeLineHistory` of `timeline.c` reads it: an ancestor, a tab, where it was left, and a reason.
fn parse(text: &str) -> Option<Vec<(Timeline, Lsn)>> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let fork = |line: &str| {
        let mut words = line.split_whitespace();
        Some((Timeline(words.next()?.parse().ok()?), words.next()?.parse().ok()?))
    };
    lines.map(fork).collect()
}

/// The highest timeline of a log segment that has the byte before `end`: what a standby that has received up to there is on.
/// Segments that were made in advance have later names.
///
/// # Errors
/// When the directory cannot be read.
pub fn of_segment_at(data_directory: &Path, end: Lsn, segment_size: u64) -> Result<Option<Timeline>, Failure> {
    let directory = data_directory.join("pg_wal");
    let entries = fs::read_dir(&directory).map_err(files::trouble("read", &directory))?;
    let wanted = end.0.saturating_sub(1).checked_div(segment_size);
    let segments_per_id = 0x1_0000_0000_u64.checked_div(segment_size).unwrap_or(0);
    let of = |name: &str| {
        let (timeline, rest) = name.split_at_checked(8)?;
        let (id, segment) = rest.split_at_checked(8)?;
        let number = |text: &str| u64::from_str_radix(text, 16).ok().filter(|_| text.len() == 8);
        let place = number(id)?.checked_mul(segments_per_id)?.checked_add(number(segment)?)?;
        (Some(place) == wanted).then(|| u32::try_from(number(timeline)?).ok().map(Timeline))?
    };
    Ok(entries.filter_map(|entry| of(entry.ok()?.file_name().to_str()?)).max())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_file_is_read_and_a_missing_one_is_named() {
        let data = tempfile::tempdir().unwrap();
        fs::create_dir(data.path().join("pg_wal")).unwrap();
        assert_eq!(of(data.path(), Timeline(1)).unwrap(), History { timeline: Timeline(1), forks: vec![] });
        let failure = of(data.path(), Timeline(0x1A)).unwrap_err();
        assert!(failure.text.contains("0000001A.history"), "{failure}");
        let text = "1\t0/5000110\tno recovery target specified\n\n\n2\t1/0\tbefore 2000-01-01 00:00:00+00\n";
        fs::write(data.path().join("pg_wal/0000001A.history"), text).unwrap();
        let forks = vec![(Timeline(1), Lsn(0x500_0110)), (Timeline(2), Lsn(0x1_0000_0000))];
        assert_eq!(of(data.path(), Timeline(0x1A)).unwrap().forks, forks);
        fs::write(data.path().join("pg_wal/00000002.history"), "one\tnowhere\n").unwrap();
        assert!(of(data.path(), Timeline(2)).is_err());
    }

    #[test]
    fn the_segment_that_holds_a_position_tells_the_timeline() {
        let data = tempfile::tempdir().unwrap();
        let log = data.path().join("pg_wal");
        fs::create_dir(&log).unwrap();
        for name in
            ["000000010000000000000005", "000000020000000000000005", "000000020000000000000006", "archive_status"]
        {
            fs::write(log.join(name), "").unwrap();
        }
        let at = |lsn: u64| of_segment_at(data.path(), Lsn(lsn), 16 << 20).unwrap();
        assert_eq!(at(0x500_0110), Some(Timeline(2)));
        assert_eq!(at(0x600_0000), Some(Timeline(2)), "the end of segment 5");
        assert_eq!(at(0x500_0000), None, "the end of segment 4");
        assert_eq!(at(0x800_0000), None);
    }
}
