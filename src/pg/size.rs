//! Numbers of bytes as people read them.

/// `512 B`, `16 kB`, `3 MB`, as PostgreSQL's `pg_size_pretty()`.
#[must_use]
pub fn size_pretty(bytes: u64) -> String {
    match bytes {
        0..10_240 => format!("{bytes} B"),
        10_240..10_485_760 => format!("{} kB", bytes / 1024),
        _ => format!("{} MB", bytes / 1024 / 1024),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        for (bytes, text) in [(0, "0 B"), (10_239, "10239 B"), (20_480, "20 kB"), (16 << 20, "16 MB")] {
            assert_eq!(size_pretty(bytes), text);
        }
    }
}
