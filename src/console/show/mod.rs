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

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::answer::{Cell, Column, Row, Table};
use super::command::Dialect;
use super::seat::Seat;
use crate::pg::moment::moment;
use crate::proxy::shared::{Running, Shared};
use crate::proxy::sounding::{Levels, sound};

/// What a view looks at.
pub struct Look {
    /// The console's.
    pub seat: Arc<Seat>,
    /// The data path's.
    pub shared: Arc<Shared>,
    /// The configuration in force.
    pub running: Arc<Running>,
    /// Which console asks.
    pub dialect: Dialect,
    /// How far buffers are filled, by client; only of those who have been asked.
    pub levels: HashMap<u64, Levels>,
}

impl Look {
    /// A look now.
    #[must_use]
    pub fn new(seat: &Arc<Seat>, shared: &Arc<Shared>, dialect: Dialect) -> Self {
        let (seat, shared, running) = (Arc::clone(seat), Arc::clone(shared), shared.running());
        Self { seat, shared, running, dialect, levels: HashMap::new() }
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
    pub rows: fn(&Look) -> Vec<Row>,
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

/// What a SHOW has to wait for: what sessions say of their buffers, and what agents say of their jobs, which are its lines.
pub async fn ask(look: &mut Look, name: &str) -> Option<Vec<Row>> {
    match view(name, look.dialect)?.name {
        "jobs" => Some(own::jobs(look).await),
        "sockets" | "active_sockets" => {
            look.levels = sound(&look.shared).await;
            None
        }
        _ => None,
    }
}

/// A SHOW's answer, with the lines that somebody has told already, if any; with `like` only lines of which some text is like it.
#[must_use]
pub fn table(look: &Look, told: Option<Vec<Row>>, name: &str, like: Option<&str>) -> Option<Table> {
    if let Some((_, value, columns)) = PARAMETERS.iter().find(|(known, ..)| *known == name) {
        return Some(Table { columns, rows: vec![vec![(*value).into()]] });
    }
    let view = view(name, look.dialect)?;
    let mut rows = told.unwrap_or_else(|| (view.rows)(look));
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
