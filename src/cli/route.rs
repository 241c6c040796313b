//! `howdah route`: what a statement is, where it would go and why.
//!
//! By the text alone without a database; with one the daemon is asked, which knows its catalogue and the nodes. Not here: how
//! the answer is found (`proxy/route/explain`).
//!
//! Exit codes: 0 there is an answer, whatever it is; 1 there is none; 2 the command line is wrong.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;

use super::api::ApiArgs;
use crate::admin::client;
use crate::admin::route::{Refusal, RouteRequest};
use crate::pg::size_pretty;
use crate::proxy::route::explain::{
    AfterWrite, Catalogue, Dependency, DependencyKind, DependencyStanding, Explanation, NodeAnswer, Routing, Wants,
};
use crate::sql::analysis::TEXT_MAX;

/// The daemon may wait some seconds for a database's catalogue.
const ANSWER_BOUND: Duration = Duration::from_secs(10);
/// Names of one kind that are shown to people.
const NAMES_SHOWN: usize = 12;

/// What a statement is, where it would go and why. Without --database by its text alone; with it the running daemon is asked,
/// which knows the functions and views of that database, and the nodes. The statement is not run.
#[derive(Debug, Args)]
pub struct RouteArgs {
    /// The statement; "-" reads it from the standard input.
    #[arg(value_name = "SQL")]
    pub sql: OsString,
    /// The database a client would name.
    #[arg(short, long, value_name = "NAME", requires = "user")]
    pub database: Option<String>,
    /// The user.
    #[arg(short = 'U', long, value_name = "NAME", requires = "database")]
    pub user: Option<String>,
    /// Which daemon.
    #[command(flatten)]
    pub api: ApiArgs,
    /// Ask no daemon, even with a database.
    #[arg(long, conflicts_with = "api")]
    pub offline: bool,
    /// For scripts: one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Runs it.
///
/// # Errors
/// When the statement cannot be read, or the daemon has no answer.
pub fn run(args: &RouteArgs) -> anyhow::Result<()> {
    let sql = statement(args)?;
    let explanation = match (&args.database, &args.user) {
        (Some(database), Some(user)) if !args.offline => ask(args, database, user, &sql)?,
        _ => Explanation::of_text(&sql),
    };
    let text = if args.json { serde_json::to_string(&explanation)? + "\n" } else { rendered(&explanation) };
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error).context("cannot write the answer"),
        _ => Ok(()),
    }
}

/// The statement; of one that is longer than anybody looks into only so much that this shows.
fn statement(args: &RouteArgs) -> anyhow::Result<Vec<u8>> {
    let mut sql = args.sql.as_bytes().to_vec();
    if sql == b"-" {
        sql.clear();
        let mut input = io::stdin().lock();
        let mut begins = (&mut input).take(TEXT_MAX as u64 + 1);
        begins.read_to_end(&mut sql).context("cannot read the statement from the standard input")?;
        io::copy(&mut input, &mut io::sink()).context("cannot read the statement from the standard input")?;
    }
    sql.truncate(TEXT_MAX + 1);
    Ok(sql)
}

/// Asks the daemon.
fn ask(args: &RouteArgs, database: &str, user: &str, sql: &[u8]) -> anyhow::Result<Explanation> {
    let address = args.api.address()?;
    let body = serde_json::to_vec(&RouteRequest::new(database, user, sql))?;
    let answer = client::post(&address, "/route", &body, ANSWER_BOUND).with_context(|| {
        format!("no answer from the daemon at {address}; is it running? --offline goes by the text alone")
    })?;
    match answer.status {
        200 => serde_json::from_str(&answer.body)
            .with_context(|| format!("the daemon at {address} is of another version: its answer is not understood")),
        status => match serde_json::from_str::<Refusal>(&answer.body) {
            Ok(refusal) => anyhow::bail!("{}", refusal.error),
            Err(_) => anyhow::bail!("{address} answers {status}: is that the HTTP API of a howdah of this version?"),
        },
    }
}

/// For people.
fn rendered(explanation: &Explanation) -> String {
    let Explanation { class, reason, reason_text, fingerprint, .. } = explanation;
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "{name:<13}{value}");
    };
    match explanation.catalogue {
        Catalogue::NotAsked => {
            line(
                "class",
                "read, if all it names only reads: no catalogue was asked (-d DATABASE -U USER asks the daemon)",
            );
            line("reason", "by its text alone it only reads");
        }
        Catalogue::NotNeeded | Catalogue::Unread | Catalogue::Read => {
            line("class", class);
            line("reason", &format!("{reason}: {reason_text}"));
        }
    }
    if explanation.catalogue == Catalogue::Unread {
        line("catalogue", explanation.catalogue_trouble.as_deref().unwrap_or("not read yet; ask again in a moment"));
    }
    line("fingerprint", fingerprint.as_deref().unwrap_or("none: it is too long"));
    for (title, names) in depends_on(explanation) {
        line(title, &names);
    }
    if let Some(routing) = &explanation.routing {
        text.push_str(&routed(routing));
    }
    text
}

/// What its class depends on, as far as that says something: what may write, or, with nobody to ask, everything.
fn depends_on(explanation: &Explanation) -> Vec<(&'static str, String)> {
    let asked = explanation.catalogue == Catalogue::Read;
    let list = |kind, standing| {
        let of = |dependency: &&Dependency| dependency.kind == kind && dependency.standing == standing;
        let names: Vec<&str> = explanation.depends_on.iter().filter(of).map(|it| it.name.as_str()).collect();
        let more = names.len().saturating_sub(NAMES_SHOWN);
        let mut list = names.iter().take(NAMES_SHOWN).copied().collect::<Vec<_>>().join(", ");
        if more > 0 {
            let _ = write!(list, " and {more} more");
        }
        list
    };
    let rows = match asked {
        true => vec![
            ("may write", list(DependencyKind::Function, DependencyStanding::MayWrite)),
            ("may write", list(DependencyKind::Name, DependencyStanding::MayWrite)),
            ("unknown", list(DependencyKind::Function, DependencyStanding::Unknown)),
        ],
        false => vec![
            ("functions", list(DependencyKind::Function, DependencyStanding::NotAsked)),
            ("names", list(DependencyKind::Name, DependencyStanding::NotAsked)),
        ],
    };
    rows.into_iter().filter(|(_, names)| !names.is_empty()).collect()
}

/// Where it would go.
fn routed(routing: &Routing) -> String {
    let mut text = String::new();
    let Routing { cluster, wants, node, .. } = routing;
    let wanted = match (&routing.undivided, wants) {
        (Some(why), _) => why.as_str(),
        (None, Wants::Primary) => "the primary only",
        (None, Wants::ReplicaOrPrimary) => "a replica that is fresh enough, or else the primary",
        (None, Wants::Replica) => "a replica only: role = \"replica\"",
        (None, Wants::PrimaryOrAny) => {
            "the primary; while there is none, any replica: it touches nothing but the session"
        }
    };
    let _ = writeln!(text, "{:<13}{wanted}", "may run on");
    let now = node.as_deref().map_or_else(
        || format!("nowhere now: it waits for up to timeouts.query_wait (cluster \"{cluster}\")"),
        |node| format!("{node} (cluster \"{cluster}\"), from a session that has just logged in"),
    );
    let _ = writeln!(text, "{:<13}{now}", "goes to");
    if let Some(after) = &routing.after_write {
        let _ = writeln!(text, "{:<13}{}", "after write", after_write(routing, after));
    }
    for note in &routing.notes {
        let _ = writeln!(text, "{:<13}{note}", "but");
    }
    let wide = |length: fn(&NodeAnswer) -> usize| routing.nodes.iter().map(length).max().unwrap_or(0);
    let (name, lag) = (wide(|node| node.name.len()).max(4), wide(|node| lag(node).len()).max(3));
    let _ = writeln!(text, "\n   {:<name$}  {:<9}{:>lag$}  {:>8}  {:>6}", "node", "role", "lag", "sessions", "weight");
    for node in &routing.nodes {
        let mark = if node.chosen { "-> " } else { "   " };
        let role = node.role.as_deref().unwrap_or("unknown");
        let (sessions, weight) = match role {
            "primary" => ("-".to_owned(), "-".to_owned()),
            _ => (node.sessions.to_string(), node.weight.to_string()),
        };
        let _ = writeln!(
            text,
            "{mark}{:<name$}  {role:<9}{:>lag$}  {sessions:>8}  {weight:>6}   {}",
            node.name,
            self::lag(node),
            node.why
        );
    }
    text
}

/// What is different for a session that has just written.
fn after_write(routing: &Routing, after: &AfterWrite) -> String {
    let to = after.node.as_deref().unwrap_or("nowhere");
    let is_replica = after.nodes.iter().any(|node| node.chosen);
    let waited = match after.waited_ms {
        waited if waited < 0.1 => String::new(),
        waited => format!(" after waiting {waited:.1} ms"),
    };
    if is_replica {
        let needs = after.needs_lsn.as_deref().map(|lsn| format!(", which has replayed {lsn}")).unwrap_or_default();
        return format!("{to}{waited}{needs}");
    }
    if let Some(why) = &after.not_waiting {
        return format!("{to}, without waiting: {why}");
    }
    let fit = |name: &str| routing.nodes.iter().any(|node| node.name == name && node.why.starts_with("fit"));
    let why = after.nodes.iter().filter(|node| fit(&node.name)).map(|node| format!("{}: {}", node.name, node.why));
    let why: Vec<String> = why.collect();
    match why.is_empty() {
        true => format!("{to}{waited}"),
        false => format!("{to}{waited} ({})", why.join("; ")),
    }
}

/// `0 B, 12 ms`.
fn lag(node: &NodeAnswer) -> String {
    match (node.lag_bytes, node.lag_time_ms) {
        _ if node.role.as_deref() == Some("primary") => "-".to_owned(),
        (Some(bytes), Some(ms)) => format!("{}, {ms} ms", size_pretty(bytes)),
        (Some(bytes), None) => size_pretty(bytes),
        (None, _) => "?".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::route::explain::nodes::AfterWriteNode;

    fn node(name: &str, role: &str, chosen: bool, why: &str) -> NodeAnswer {
        NodeAnswer {
            name: name.to_owned(),
            role: Some(role.to_owned()),
            chosen,
            why: why.to_owned(),
            weight: 1,
            sessions: 8,
            lag_bytes: Some(0),
            lag_time_ms: Some(3),
        }
    }

    fn explained() -> Explanation {
        let routing = Routing {
            database: "app".to_owned(),
            user: "app".to_owned(),
            cluster: "main".to_owned(),
            wants: Wants::ReplicaOrPrimary,
            undivided: None,
            node: Some("b".to_owned()),
            nodes: vec![
                node("a", "primary", false, "the primary: reads go to replicas"),
                node("b", "standby", true, "fit, with the fewest sessions for its weight"),
                node("c", "standby", false, "fit, and as good as \"b\": they take turns"),
            ],
            after_write: Some(AfterWrite {
                node: Some("c".to_owned()),
                needs_lsn: Some("0/3000148".to_owned()),
                waited_ms: 1.26,
                not_waiting: None,
                nodes: vec![AfterWriteNode { name: "c".to_owned(), chosen: true, why: "has replayed it".to_owned() }],
            }),
            notes: vec![],
        };
        let text = Explanation::of_text(b"select balance from accounts where id = 7");
        Explanation { catalogue: Catalogue::Read, routing: Some(routing), ..text }
    }

    #[test]
    fn an_answer_of_the_daemon_reads_from_the_class_to_the_nodes() {
        assert_eq!(
            rendered(&explained()),
            "\
class        read
reason       reads: only reads, in every part and in every function it calls
fingerprint  select balance from accounts where id = ?
may run on   a replica that is fresh enough, or else the primary
goes to      b (cluster \"main\"), from a session that has just logged in
after write  c after waiting 1.3 ms, which has replayed 0/3000148

   node  role           lag  sessions  weight
   a     primary          -         -       -   the primary: reads go to replicas
-> b     standby  0 B, 3 ms         8       1   fit, with the fewest sessions for its weight
   c     standby  0 B, 3 ms         8       1   fit, and as good as \"b\": they take turns
"
        );
    }

    #[test]
    fn without_a_catalogue_what_it_would_have_been_asked_for_is_named() {
        let text = rendered(&Explanation::of_text(b"select f(1), random() from v"));
        assert!(text.contains("no catalogue was asked") && text.contains("functions    f\n"), "{text}");
        assert!(text.contains("names        v\n"), "{text}");
        let many: Vec<String> = (0..20).map(|i| format!("f{i}(1)")).collect();
        let text = rendered(&Explanation::of_text(format!("select {}", many.join(", ")).as_bytes()));
        assert!(text.contains(" and 8 more\n"), "{text}");
    }

    #[test]
    fn what_no_replica_has_is_said_with_the_reason() {
        let mut explanation = explained();
        let after = explanation.routing.as_mut().unwrap().after_write.as_mut().unwrap();
        after.node = Some("a".to_owned());
        after.waited_ms = 10.2;
        after.nodes = vec![AfterWriteNode { name: "c".to_owned(), chosen: false, why: "2 kB short".to_owned() }];
        let text = rendered(&explanation);
        assert!(text.contains("after write  a after waiting 10.2 ms (c: 2 kB short)\n"), "{text}");
        explanation.routing.as_mut().unwrap().after_write.as_mut().unwrap().not_waiting = Some("in vain".to_owned());
        assert!(rendered(&explanation).contains("after write  a, without waiting: in vain\n"), "{text}");
    }

    #[test]
    fn a_json_answer_comes_back_as_it_was() {
        let written = serde_json::to_string(&explained()).unwrap();
        assert_eq!(serde_json::from_str::<Explanation>(&written).unwrap(), explained());
    }
}
