//! What somebody may have meant: the known word nearest to the one that was written.

/// The nearest of the known words, if one is near enough to be worth a question.
pub(crate) fn nearest<'k>(written: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let lower = written.to_ascii_lowercase().replace('-', "_");
    // A third of the letters may be wrong: "siez" for "size" yes, "port" for "role" no.
    let limit = (written.chars().count() / 3).max(1);
    known
        .into_iter()
        .map(|word| (distance(&lower, &word.to_ascii_lowercase().replace('-', "_")), word))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| word)
}

/// How many letters must be added, removed, replaced or swapped with their neighbour (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    let mut a_before = None;
    for (i, a_now) in a.chars().enumerate() {
        let mut row = vec![i.saturating_add(1)];
        let mut b_before = None;
        for (j, b_now) in b.iter().copied().enumerate() {
            let cell = |row: &[usize], at: Option<usize>| at.and_then(|at| row.get(at)).copied().unwrap_or(usize::MAX);
            let replaced = cell(&last, Some(j)).saturating_add(usize::from(a_now != b_now));
            let removed = cell(&last, Some(j.saturating_add(1))).saturating_add(1);
            let added = cell(&row, Some(j)).saturating_add(1);
            let mut least = replaced.min(removed).min(added);
            if a_before == Some(b_now) && b_before == Some(a_now) {
                least = least.min(cell(&before_last, j.checked_sub(1)).saturating_add(1));
            }
            row.push(least);
            b_before = Some(b_now);
        }
        before_last = std::mem::replace(&mut last, row);
        a_before = Some(a_now);
    }
    last.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_near_word_is_suggested_and_a_far_one_is_not() {
        let known = ["mode", "size", "max_server_connections"];
        assert_eq!(nearest("siez", known), Some("size"));
        assert_eq!(nearest("Size", known), Some("size"));
        assert_eq!(nearest("max-server-connections", known), Some("max_server_connections"));
        assert_eq!(nearest("max_server_conections", known), Some("max_server_connections"));
        assert_eq!(nearest("colour", known), None);
        assert_eq!(nearest("", known), None);
    }

    #[test]
    fn swapped_letters_count_once() {
        assert_eq!(distance("siez", "size"), 1);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abc", "abc"), 0);
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
