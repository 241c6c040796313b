//! Where a statement would go and why, in words: for a statement that nobody has sent, and a session that has just logged in.
//!
//! It asks what the data path asks, of the same snapshots, and counts and changes nothing. What it cannot know is what a real
//! session has set (`ALTER ROLE … SET default_transaction_read_only`) and seen.
//!
//! - this file: the statement; [`nodes`]: the nodes
//!
//! Not here: how it is asked for (`admin/route.rs`), how it is shown (`cli/route.rs`).

pub mod nodes;

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::nodes::{AfterWrite, NodeAnswer, Routing, Wants};
use super::lens::Lens;
use crate::config::RoutingRole;
use crate::proxy::session::destination::Need;
use crate::proxy::session::turn::Routed;
use crate::proxy::shared::Shared;
use crate::sql::analysis::{Analysis, TEXT_MAX};
use crate::sql::built_ins;
use crate::sql::class::{Class, Reason, Verdict};
use crate::sql::fingerprint;
use crate::sql::knowledge::{Assumed, Knowledge, Standing};

/// How long the catalogue of a database that nobody is connected to is waited for.
const CATALOGUE_WAIT: Duration = Duration::from_secs(3);
/// Between two looks whether it has been read.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// What is asked: the statement, as a client of this database would send it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The database, as clients name it.
    pub database: String,
    /// The user.
    pub user: String,
    /// The statement, in any encoding and of any length.
    pub sql: Vec<u8>,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExplainError {
    /// Neither it nor `"*"` is configured.
    #[error("no such database: \"{0}\" is not in the configuration, and neither is \"*\"")]
    NoSuchDatabase(String),
}

/// What a statement is and where it would go.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// [`Class::label`].
    pub class: String,
    /// [`Reason::label`].
    pub reason: String,
    /// [`Reason::text`].
    pub reason_text: String,
    /// The statement with its literals replaced by `?`; `None` when it is too long to be looked into.
    pub fingerprint: Option<String>,
    /// Whether the database's catalogue had a say.
    pub catalogue: Catalogue,
    /// Why it could not be read, if it was tried.
    pub catalogue_trouble: Option<String>,
    /// What the class depends on beside the text.
    pub depends_on: Vec<Dependency>,
    /// Where it would go; `None` when no daemon was asked.
    pub routing: Option<Routing>,
}

/// Whether a catalogue had a say in a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Catalogue {
    /// The text says it all.
    NotNeeded,
    /// It would have, but there was nobody to ask.
    NotAsked,
    /// It has not been read, so that everything that depends on it goes to the primary.
    Unread,
    /// It had.
    Read,
}

/// Something a statement names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dependency {
    /// Its name without schema, folded.
    pub name: String,
    /// What it is, by its place in the text.
    pub kind: DependencyKind,
    /// What is known of it.
    pub standing: DependencyStanding,
}

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DependencyKind {
    /// A function that is called.
    Function,
    /// Anything else: a table, view, column, type.
    Name,
}

/// What is known of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DependencyStanding {
    /// It only reads, everything that has this name.
    Reads,
    /// Something of this name may write, or is not on standbys.
    MayWrite,
    /// The catalogue knows no such function.
    Unknown,
    /// Nobody was asked.
    NotAsked,
}

impl Explanation {
    /// By the text alone, with nobody to ask: what depends on a catalogue is a candidate, shown as a read.
    #[must_use]
    pub fn of_text(sql: &[u8]) -> Self {
        let analysis = Analysis::of(sql, true);
        let (verdict, catalogue) = match analysis.hinted().or_else(|| analysis.settled()) {
            Some(verdict) => (verdict, Catalogue::NotNeeded),
            None => (Verdict::new(Class::Read, Reason::Reads), Catalogue::NotAsked),
        };
        Self::new(sql, &analysis, verdict, catalogue, None::<&Assumed>)
    }

    fn new(
        sql: &[u8],
        analysis: &Analysis,
        verdict: Verdict,
        catalogue: Catalogue,
        knowledge: Option<&impl Knowledge>,
    ) -> Self {
        Self {
            class: verdict.class.label().to_owned(),
            reason: verdict.reason.label().to_owned(),
            reason_text: verdict.reason.text().to_owned(),
            fingerprint: shown(sql),
            catalogue,
            catalogue_trouble: None,
            depends_on: dependencies(analysis, verdict, knowledge),
            routing: None,
        }
    }
}

/// Explains a statement. Waits for a catalogue that nobody has needed yet, for a moment; and as long as a session would for a
/// replica (`routing.fresh_wait`).
///
/// # Errors
/// [`ExplainError`].
pub async fn explain(shared: &Arc<Shared>, question: &Question) -> Result<Explanation, ExplainError> {
    let running = shared.running();
    let (database, user) = (question.database.as_str(), question.user.as_str());
    let unknown = || ExplainError::NoSuchDatabase(question.database.clone());
    let profile = running.config.profile(database, user).ok_or_else(unknown)?;
    let analysis = Analysis::of(&question.sql, true);
    let hinted = analysis.hinted().filter(|_| running.config.routing.hints);
    let (mut explanation, verdict) = match hinted.or_else(|| analysis.settled()) {
        Some(verdict) => {
            (Explanation::new(&question.sql, &analysis, verdict, Catalogue::NotNeeded, None::<&Assumed>), verdict)
        }
        None => {
            let view = shared.hidden.view(&profile.cluster, &profile.dbname);
            let deadline = tokio::time::Instant::now() + CATALOGUE_WAIT;
            while view.reading().generation() == 0 && !view.is_hopeless() && tokio::time::Instant::now() < deadline {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            let known = view.reading();
            let lens = Lens { lists: &running.lists, catalogue: &**known };
            let verdict = analysis.verdict(&lens);
            let read = lens.generation() != 0;
            let catalogue = if read { Catalogue::Read } else { Catalogue::Unread };
            let mut explanation =
                Explanation::new(&question.sql, &analysis, verdict, catalogue, Some(&lens).filter(|_| read));
            if !read {
                explanation.catalogue_trouble = view.trouble();
            }
            (explanation, verdict)
        }
    };
    let need = match profile.role {
        RoutingRole::Replica => Need::Replica,
        RoutingRole::Auto | RoutingRole::Primary if profile.undivided().is_some() => Need::Primary,
        RoutingRole::Auto | RoutingRole::Primary => Routed::by(verdict).need,
    };
    explanation.routing = Some(nodes::routing(shared, &running, &profile, question, need).await);
    Ok(explanation)
}

/// The fingerprint for people; `None` for a text that nobody looks into.
fn shown(sql: &[u8]) -> Option<String> {
    if sql.len() > TEXT_MAX {
        return None;
    }
    let mut written = Vec::with_capacity(sql.len());
    fingerprint::write(sql, true, &mut written);
    Some(fingerprint::shown(&written))
}

/// What a class depends on, and what is known of that.
fn dependencies(analysis: &Analysis, verdict: Verdict, knowledge: Option<&impl Knowledge>) -> Vec<Dependency> {
    let function = |name: &[u8]| match knowledge {
        None if built_ins::is_harmless(name) => DependencyStanding::Reads,
        None => DependencyStanding::NotAsked,
        Some(known) if known.writes(name) => DependencyStanding::MayWrite,
        Some(known) => match known.function(name) {
            Standing::Reads => DependencyStanding::Reads,
            Standing::Writes => DependencyStanding::MayWrite,
            Standing::Unknown => DependencyStanding::Unknown,
        },
    };
    let dependency = |name: &[u8], kind, standing| {
        let name = String::from_utf8_lossy(name).into_owned();
        Dependency { name, kind, standing }
    };
    let mut all: Vec<Dependency> =
        analysis.calls().map(|name| dependency(name, DependencyKind::Function, function(name))).collect();
    // a name that merely looks like an alias may have been taken for a call
    let found = all.iter().any(|call| call.standing == DependencyStanding::MayWrite);
    let looks_like_call = verdict.reason == Reason::WritingFunction && !found;
    let name_standing = |name: &[u8]| match knowledge {
        None => DependencyStanding::NotAsked,
        Some(known) if known.writes(name) => DependencyStanding::MayWrite,
        Some(known) if looks_like_call && known.function(name) == Standing::Writes => DependencyStanding::MayWrite,
        Some(_) => DependencyStanding::Reads,
    };
    all.extend(analysis.others().map(|name| dependency(name, DependencyKind::Name, name_standing(name))));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Known;

    impl Knowledge for Known {
        fn generation(&self) -> u64 {
            1
        }
        fn function(&self, name: &[u8]) -> Standing {
            match name {
                b"audited" => Standing::Writes,
                b"missing" => Standing::Unknown,
                _ => Standing::Reads,
            }
        }
        fn writes(&self, name: &[u8]) -> bool {
            name == b"v"
        }
        fn writes_everywhere(&self) -> bool {
            false
        }
    }

    #[test]
    fn a_text_alone_is_a_candidate_or_settled() {
        for (sql, class, reason, catalogue) in [
            ("select f(1)", "read", "reads", Catalogue::NotAsked),
            ("insert into t values (1)", "write", "changes_data", Catalogue::NotNeeded),
            ("/* howdah: replica */ select f(1)", "read", "hint_replica", Catalogue::NotNeeded),
            ("/* howdah: replica */ select pg_advisory_lock(1)", "write", "advisory_lock", Catalogue::NotNeeded),
            ("/* howdah: primary */ select f(1)", "write", "hint_primary", Catalogue::NotNeeded),
            ("select 'open", "unknown", "not_text", Catalogue::NotNeeded),
            ("", "read", "empty", Catalogue::NotNeeded),
        ] {
            let explanation = Explanation::of_text(sql.as_bytes());
            let said = (explanation.class.as_str(), explanation.reason.as_str(), explanation.catalogue);
            assert_eq!(said, (class, reason, catalogue), "{sql}");
        }
        let long = Explanation::of_text(&vec![b' '; TEXT_MAX + 1]);
        assert_eq!((long.reason.as_str(), long.fingerprint), ("too_long", None));
    }

    #[test]
    fn what_a_class_depends_on_is_named_with_what_is_known_of_it() {
        use DependencyKind::{Function, Name};
        use DependencyStanding::{MayWrite, NotAsked, Reads, Unknown};
        let analysis = Analysis::of(b"select audited(1), missing(2), random(), abs(x) from v", true);
        let standing = |all: &[Dependency], name: &str| {
            all.iter().find(|dependency| dependency.name == name).map(|it| (it.kind, it.standing))
        };
        let known = dependencies(&analysis, analysis.verdict(&Known), Some(&Known));
        for (name, kind, expected) in [
            ("audited", Function, MayWrite),
            ("missing", Function, Unknown),
            ("random", Function, Reads),
            ("abs", Function, Reads),
            ("v", Name, MayWrite),
            ("x", Name, Reads),
        ] {
            assert_eq!(standing(&known, name), Some((kind, expected)), "{name}");
        }
        let nobody = Explanation::of_text(b"select audited(1), random() from v").depends_on;
        assert_eq!(standing(&nobody, "audited"), Some((Function, NotAsked)));
        assert_eq!(standing(&nobody, "random"), Some((Function, Reads)), "whatever the database");
    }
}
