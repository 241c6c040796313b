//! PostgreSQL's own functions and views, as a database lists them: which of them keep a statement from a standby.
//!
//! They are the same in all databases of a cluster, and kept once. Not here: what each of them does by its name
//! (`sql/built_ins.rs`), what users have made (`reading`).

use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::reading::Functions;
use super::source::BUILT_INS;
use crate::sql::built_ins;
use crate::sql::knowledge::Standing;

/// All of them.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Own {
    /// What they were read from.
    functions_listed: Box<str>,
    views_listed: Box<str>,
    /// What `pg_proc` says.
    pub functions: Functions,
    /// The numbers of functions and views that change session state.
    pub hiding: Vec<u32>,
    /// The numbers of functions that are not for a standby, whatever `pg_proc` says.
    pub writing: Vec<u32>,
    /// The numbers of views that tell of the node.
    pub node_views: Vec<u32>,
}

impl Own {
    /// From lines of number, name and `provolatile` for functions, of number and name for views; `None` when they are
    /// something else.
    fn of(functions_listed: &str, views_listed: &str) -> Option<Self> {
        let mut own =
            Self { functions_listed: functions_listed.into(), views_listed: views_listed.into(), ..Self::default() };
        for line in functions_listed.lines() {
            let mut columns = line.split(' ');
            let (oid, name, volatile) =
                (columns.next()?.parse().ok()?, columns.next()?.as_bytes(), columns.next()? == "v");
            if std::str::from_utf8(name).is_ok_and(|name| BUILT_INS.binary_search(&name).is_ok()) {
                own.hiding.push(oid);
            }
            let writes = volatile && !built_ins::is_harmless(name);
            own.functions.add(name, if writes { Standing::Writes } else { Standing::Reads });
            if built_ins::function(name).is_some() || writes {
                own.writing.push(oid);
            }
        }
        for line in views_listed.lines() {
            let (oid, name) = line.split_once(' ')?;
            let oid = oid.parse().ok()?;
            if name == "pg_settings" {
                own.hiding.push(oid); // what is written to it is set
            }
            if built_ins::tells_of_node(name.as_bytes()) {
                own.node_views.push(oid);
            }
        }
        Some(own)
    }

    /// Whether what a function's source calls or reads under this name is not for a standby.
    #[must_use]
    pub fn writes(&self, name: &[u8]) -> bool {
        built_ins::function(name).is_some()
            || built_ins::tells_of_node(name)
            || self.functions.standing(name) == Standing::Writes
    }
}

/// Those of all clusters, each version of them once.
#[derive(Debug, Default)]
pub struct Shelf(Mutex<Vec<Weak<Own>>>);

impl Shelf {
    /// What these lists say; see [`Own`]. `None` when they make no sense.
    pub fn own(&self, functions_listed: &str, views_listed: &str) -> Option<Arc<Own>> {
        let mut shelf = self.0.lock();
        let is_same = |own: &Arc<Own>| *own.functions_listed == *functions_listed && *own.views_listed == *views_listed;
        if let Some(own) = shelf.iter().filter_map(Weak::upgrade).find(is_same) {
            return Some(own);
        }
        let own = Arc::new(Own::of(functions_listed, views_listed)?);
        shelf.retain(|other| other.strong_count() > 0);
        shelf.push(Arc::downgrade(&own));
        Some(own)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FUNCTIONS: &str =
        "1 lower i\n2 nextval v\n3 random v\n4 pg_backend_pid s\n5 lower v\n6 pg_rotten v\n10 setseed v";

    #[test]
    fn what_keeps_a_statement_from_a_standby_is_told_from_what_pg_proc_says() {
        let own = Own::of(FUNCTIONS, "7 pg_locks\n8 pg_tables\n9 pg_settings").unwrap();
        assert_eq!((&*own.writing, &*own.node_views, &*own.hiding), (&[2, 4, 5, 6, 10][..], &[7, 9][..], &[10, 9][..]));
        assert_eq!(own.functions.standing(b"random"), Standing::Reads);
        assert_eq!(own.functions.standing(b"pg_backend_pid"), Standing::Reads);
        assert_eq!(own.functions.standing(b"nobody"), Standing::Unknown);
        assert!(
            own.writes(b"nextval") && own.writes(b"pg_backend_pid") && own.writes(b"pg_locks") && own.writes(b"lower")
        );
        assert!(!own.writes(b"random") && !own.writes(b"pg_tables") && !own.writes(b"nobody"));
        assert!(Own::of("x lower i", "").is_none() && Own::of("1 lower", "").is_none() && Own::of("", "7").is_none());
    }

    #[test]
    fn databases_of_one_version_share_what_is_the_same() {
        let shelf = Shelf::default();
        let own = shelf.own(FUNCTIONS, "").unwrap();
        assert!(Arc::ptr_eq(&own, &shelf.own(FUNCTIONS, "").unwrap()));
        assert!(!Arc::ptr_eq(&own, &shelf.own("", "").unwrap()));
        drop(own);
        shelf.own("1 lower i", "").unwrap();
        assert_eq!(shelf.0.lock().len(), 1, "who is gone is not kept");
    }
}
