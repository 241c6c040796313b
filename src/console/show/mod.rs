//! Every `SHOW`: its columns, and where its lines come from. Columns, order and words of PgBouncer's are PgBouncer's to the
//! letter, because monitors and foreign tables name them.
//!
//! - [`scene`]: who is connected to whom, at one moment
//! - [`pools`]: POOLS, DATABASES, USERS · [`sockets`]: CLIENTS, SERVERS, SOCKETS · [`counts`]: STATS and its kin
//! - [`settings`]: CONFIG · [`odds`]: everything small
//! - [`own`]: what only the database `howdah` has

pub mod counts;
pub mod odds;
pub mod own;
pub mod pools;
pub mod scene;
pub mod settings;
pub mod sockets;

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::answer::{Cell, Column, Row, Table};
use super::command::Dialect;
use super::seat::Seat;
use crate::pg::moment::moment;
use crate::proxy::shared::{Running, Shared};

/// What a view looks at.
pub struct Look<'a> {
    /// The console's.
    pub seat: &'a Seat,
    /// The data path's.
    pub shared: &'a Arc<Shared>,
    /// The configuration in force.
    pub running: Arc<Running>,
    /// Which console asks.
    pub dialect: Dialect,
}

impl<'a> Look<'a> {
    /// A look now.
    #[must_use]
    pub fn new(seat: &'a Seat, shared: &'a Arc<Shared>, dialect: Dialect) -> Self {
        Self { seat, shared, running: shared.running(), dialect }
    }
}

/// A SHOW.
#[derive(Debug)]
pub struct View {
    /// What it is called.
    pub name: &'static str,
    /// What its lines are made of.
    pub columns: &'static [Column],
    /// Its lines.
    pub rows: fn(&Look<'_>) -> Vec<Row>,
}

/// What PgBouncer has, in the order of its help.
const VIEWS: &[View] = &[
    settings::CONFIG,
    pools::DATABASES,
    pools::POOLS,
    sockets::CLIENTS,
    sockets::SERVERS,
    pools::USERS,
    odds::VERSION,
    odds::PEERS,
    odds::PEER_POOLS,
    odds::FDS,
    sockets::SOCKETS,
    sockets::ACTIVE_SOCKETS,
    odds::LISTS,
    odds::MEM,
    odds::STATE,
    odds::DNS_HOSTS,
    odds::DNS_ZONES,
    counts::STATS,
    counts::STATS_TOTALS,
    counts::STATS_AVERAGES,
    counts::TOTALS,
];

/// What drivers ask, and PgBouncer answers.
const PARAMETERS: [(&str, &str, &[Column]); 5] = {
    use super::answer::Kind::Text;
    [
        ("client_encoding", "UTF-8", &[("client_encoding", Text)]),
        ("default_transaction_isolation", "read committed", &[("default_transaction_isolation", Text)]),
        ("standard_conforming_strings", "on", &[("standard_conforming_strings", Text)]),
        ("datestyle", "ISO", &[("datestyle", Text)]),
        ("timezone", "GMT", &[("timezone", Text)]),
    ]
};

fn view(name: &str, dialect: Dialect) -> Option<&'static View> {
    let own = || own::VIEWS.iter().find(|view| view.name == name).filter(|_| dialect == Dialect::Howdah);
    VIEWS.iter().find(|view| view.name == name).or_else(own)
}

/// Whether drivers set it, and PgBouncer lets them.
#[must_use]
pub fn is_parameter(key: &str) -> bool {
    PARAMETERS.iter().any(|(name, ..)| name.eq_ignore_ascii_case(key))
}

/// Whether there is such a SHOW.
#[must_use]
pub fn is_known(name: &str, dialect: Dialect) -> bool {
    name == "help" || columns(name, dialect).is_some()
}

/// What the lines of a SHOW are made of.
#[must_use]
pub fn columns(name: &str, dialect: Dialect) -> Option<&'static [Column]> {
    let parameter = || PARAMETERS.iter().find(|(known, ..)| *known == name).map(|(_, _, columns)| *columns);
    view(name, dialect).map(|view| view.columns).or_else(parameter)
}

/// A SHOW's answer: with `like` only lines of which some text is like it.
pub async fn table(look: &Look<'_>, name: &str, like: Option<&str>) -> Option<Table> {
    if let Some((_, value, columns)) = PARAMETERS.iter().find(|(known, ..)| *known == name) {
        return Some(Table { columns, rows: vec![vec![(*value).into()]] });
    }
    let view = view(name, look.dialect)?;
    let mut rows = match name {
        "jobs" => own::jobs(look).await,
        "sockets" => sockets::all_sockets(look, false).await,
        "active_sockets" => sockets::all_sockets(look, true).await,
        _ => (view.rows)(look),
    };
    if let Some(pattern) = like {
        let fits = |cell: &Cell| matches!(cell, Cell::Text(text) if is_like(text, pattern));
        rows.retain(|row| row.iter().any(fits));
    }
    Some(Table { columns: view.columns, rows })
}

/// `LIKE` of SQL: `%` for any text, `_` for any character, `\` before either for itself.
fn is_like(text: &str, pattern: &str) -> bool {
    let text: Vec<char> = text.chars().collect();
    // where in the text a match of the pattern so far may end
    let mut ends = vec![false; text.len() + 1];
    if let Some(first) = ends.first_mut() {
        *first = true;
    }
    let mut pattern = pattern.chars();
    while let Some(next) = pattern.next() {
        let wanted = match next {
            '%' => {
                let mut seen = false;
                for end in &mut ends {
                    seen |= *end;
                    *end = seen;
                }
                continue;
            }
            '_' => None,
            '\\' => Some(pattern.next().unwrap_or('\\')),
            other => Some(other),
        };
        let fits = |at: usize| wanted.is_none() || text.get(at).copied() == wanted;
        let mut moved = vec![false; ends.len()];
        for (at, (end, to)) in ends.iter().zip(moved.iter_mut().skip(1)).enumerate() {
            *to = *end && fits(at);
        }
        ends = moved;
    }
    ends.last() == Some(&true)
}

/// As PgBouncer writes a moment: `2026-11-21 23:33:20 UTC`.
fn written(at: SystemTime) -> String {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    written_ms(u64::try_from(since.as_millis()).unwrap_or_default())
}

fn written_ms(wall_ms: u64) -> String {
    format!("{} UTC", moment(wall_ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn like_is_that_of_sql() {
        for (text, pattern, fits) in [
            ("main", "main", true),
            ("main", "ma", false),
            ("main", "m%", true),
            ("main", "%a%n", true),
            ("main", "_ain", true),
            ("main", "__", false),
            ("m%n", "m\\%n", true),
            ("main", "m\\%n", false),
            ("", "%", true),
            ("Main", "main", false),
        ] {
            assert_eq!(is_like(text, pattern), fits, "{text} LIKE {pattern}");
        }
    }
}
