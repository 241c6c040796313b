//! Which names have series of their own: clients bring names along (databases behind `"*"`, users), and each would be a series
//! for good in who collects them.
//!
//! Who has one keeps it as long as there is something to say of it: a name that changed places with `other` from scrape to scrape
//! would look like traffic that comes and goes.

use std::collections::{BTreeMap, BTreeSet};

use parking_lot::Mutex;

/// So many of a kind have series of their own.
const NAMES_MAX: usize = 200;
/// All others, added up.
pub(super) const OTHER: &str = "other";

/// The names, by what they are names of.
#[derive(Debug, Default)]
pub struct Named {
    kinds: Mutex<BTreeMap<&'static str, BTreeSet<Vec<String>>>>,
}

impl Named {
    /// Sorts rows by whether they have a series of their own. There is room for the largest first.
    pub(super) fn split<T>(
        &self,
        kind: &'static str,
        rows: Vec<T>,
        name: impl Fn(&T) -> Vec<String>,
        size: impl Fn(&T) -> u64,
    ) -> (Vec<T>, Vec<T>) {
        let mut kinds = self.kinds.lock();
        let named = kinds.entry(kind).or_default();
        let present: BTreeSet<Vec<String>> = rows.iter().map(&name).collect();
        named.retain(|known| present.contains(known));
        let mut new: Vec<&T> = rows.iter().filter(|row| !named.contains(&name(row))).collect();
        new.sort_by_key(|row| std::cmp::Reverse(size(row)));
        let room = NAMES_MAX.saturating_sub(named.len());
        let admitted: Vec<Vec<String>> = new.into_iter().take(room).map(&name).collect();
        named.extend(admitted);
        rows.into_iter().partition(|row| named.contains(&name(row)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(named: &Named, rows: &[(&str, u64)]) -> (Vec<String>, usize) {
        let rows: Vec<(String, u64)> = rows.iter().map(|(name, size)| ((*name).to_owned(), *size)).collect();
        let (own, other) = named.split("pools", rows, |row| vec![row.0.clone()], |row| row.1);
        (own.into_iter().map(|row| row.0).collect(), other.len())
    }

    #[test]
    fn who_has_a_series_keeps_it_until_it_is_gone() {
        let named = Named::default();
        let mut rows: Vec<(String, u64)> = (0..NAMES_MAX).map(|at| (format!("n{at:03}"), 1)).collect();
        rows.push(("large".to_owned(), 99));
        let view = |rows: &[(String, u64)]| {
            let rows: Vec<(&str, u64)> = rows.iter().map(|(name, size)| (name.as_str(), *size)).collect();
            split(&named, &rows)
        };
        let (own, other) = view(&rows);
        assert_eq!((own.len(), other), (NAMES_MAX, 1), "no more than there is room for");
        assert!(own.contains(&"large".to_owned()), "the largest first");
        let left_out = rows.iter().find(|row| !own.contains(&row.0)).unwrap().0.clone();
        rows.iter_mut().filter(|row| row.0 == left_out).for_each(|row| row.1 = 1_000);
        assert!(!view(&rows).0.contains(&left_out), "who is in stays in");
        rows.retain(|row| row.0 != "large");
        assert_eq!(view(&rows), (rows.iter().map(|row| row.0.clone()).collect(), 0), "and makes room when it goes");
    }
}
