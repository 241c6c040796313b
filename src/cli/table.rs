//! Tables and times for people.

pub use crate::pg::moment::moment;

/// Columns as wide as they must be, two spaces between them; nothing behind the last.
#[must_use]
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain(head.get(column).map(|cell| cell.len())).max().unwrap_or_default()
    };
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut line = String::new();
        for (column, cell) in cells.enumerate() {
            let width = width(column);
            line.push_str(&format!("{cell:<width$}  "));
        }
        line.trim_end().to_owned() + "\n"
    };
    let mut text = line(&mut head.iter().copied());
    for row in rows {
        text.push_str(&line(&mut row.iter().map(String::as_str)));
    }
    text
}

/// The time of day alone, in UTC: `20:38:01.123`.
#[must_use]
pub fn clock(wall_ms: u64) -> String {
    let whole = moment(wall_ms);
    let (_, time) = whole.split_once(' ').unwrap_or_default();
    format!("{time}.{:03}", wall_ms % 1000)
}

/// How long something took: `0.312 s`, `12.3 s`, `4 min 10 s`.
#[must_use]
pub fn took(ms: u64) -> String {
    match ms {
        0..10_000 => format!("{}.{:03} s", ms / 1000, ms % 1000),
        10_000..60_000 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        _ => format!("{} min {} s", ms / 60_000, ms / 1000 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_read_as_date_does() {
        for (wall_ms, text) in [
            (0, "1970-01-01 00:00:00"),
            (951_782_400_000, "2000-02-29 00:00:00"),
            (1_709_251_199_999, "2024-02-29 23:59:59"),
            (1_795_293_481_123, "2026-11-21 20:38:01"),
            (4_107_542_400_000, "2100-03-01 00:00:00"),
        ] {
            assert_eq!(moment(wall_ms), text);
        }
        assert_eq!(clock(1_795_293_481_123), "20:38:01.123");
        assert_eq!([took(312), took(12_345), took(250_000)], ["0.312 s", "12.3 s", "4 min 10 s"]);
    }

    #[test]
    fn a_table_is_as_wide_as_it_must_be() {
        let row = |cells: &[&str]| cells.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>();
        let text = table(&["NODE", "NOTE"], &[row(&["a", ""]), row(&["länger", "x"])]);
        assert_eq!(text, "NODE    NOTE\na\nlänger  x\n");
    }
}
