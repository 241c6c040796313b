//! Which standby is promoted: a pure choice, with a reason for each one that is not.
//!
//! What a standby lacks is measured against the furthest position that anybody has seen, never against what it has received
//! itself: one that was cut off hours ago has replayed all of that.

use std::cmp::Reverse;

use crate::directive::History;
use crate::pg::{Lsn, SystemIdentifier, Timeline, size_pretty};
use crate::topology::NodeName;

use super::{Aside, Member, Reason, Refused};

/// What a candidate is compared with.
#[derive(Clone, Debug, Default)]
pub(super) struct Expected {
    pub(super) system: Option<SystemIdentifier>,
    /// The primary's timeline, and the ones it came from as far as that is known.
    pub(super) history: History,
    /// The furthest position of the primary's log that anybody has seen.
    pub(super) furthest: Lsn,
    pub(super) max_lag: u64,
    pub(super) allow_data_loss: bool,
}

/// What is known of one that might be promoted.
#[derive(Clone, Debug)]
pub(super) struct Standing<'a> {
    pub(super) member: &'a Member,
    pub(super) aside: Option<&'a Aside>,
    /// Why it cannot be counted on: its agent is not heard, its freeze failed.
    pub(super) absent: Option<String>,
    pub(super) system: Option<SystemIdentifier>,
    /// Its timeline, and what it has received or replayed.
    pub(super) reach: Option<(Timeline, Lsn)>,
    /// The operator has named it: priority 0 is no obstacle.
    pub(super) named: bool,
    /// It may have a timeline of its own whose number another has too.
    pub(super) forked: bool,
}

/// Why not, or how far it is.
pub(super) fn judge(standing: &Standing<'_>, expected: &Expected) -> Result<Lsn, Refused> {
    let name = &standing.member.name;
    let no = |reason, text: String| Err(Refused { reason, text: format!("\"{name}\" {text}") });
    if !standing.member.has_agent {
        return no(Reason::NotManaged, "has no agent".to_owned());
    }
    match standing.aside {
        Some(Aside::Detached) => return no(Reason::Detached, "is detached".to_owned()),
        Some(Aside::Fenced) => return no(Reason::Detached, "is fenced by the operator".to_owned()),
        Some(Aside::Quarantined { why }) => return no(Reason::Quarantined, format!("is quarantined: {why}")),
        None => {}
    }
    if standing.member.priority == 0 && !standing.named {
        return no(Reason::Detached, "has priority 0: it is never promoted".to_owned());
    }
    if let Some(why) = &standing.absent {
        return no(Reason::Unreachable, why.clone());
    }
    if standing.system != expected.system {
        return no(Reason::OtherHistory, "is of another cluster: its system identifier differs".to_owned());
    }
    if standing.forked {
        let text =
            "was promoted in vain, and what it has written since may pass for another's: it has to be copied anew";
        return no(Reason::OtherHistory, text.to_owned());
    }
    let Some((timeline, lsn)) = standing.reach else {
        return no(Reason::Unreachable, "has not said how far it is".to_owned());
    };
    if !expected.history.has(timeline, lsn) {
        let text =
            format!("is at {lsn} of timeline {timeline}, which is no part of timeline {}", expected.history.timeline);
        return no(Reason::OtherHistory, text);
    }
    let lacks = expected.furthest.bytes_since(lsn);
    if lacks > expected.max_lag && !expected.allow_data_loss {
        let text = format!(
            "lacks {} of the primary's log (it is at {lsn}, the log went to {}); max_lag_on_failover is {}",
            size_pretty(lacks),
            expected.furthest,
            size_pretty(expected.max_lag),
        );
        return no(Reason::Lagging, text);
    }
    Ok(lsn)
}

/// The best of those that may be promoted: most log, then priority, then the order of the configuration.
pub(super) fn best<'a>(candidates: &[(&'a Member, Lsn)]) -> Option<(&'a NodeName, Lsn)> {
    let ranked = candidates.iter().enumerate();
    let best = ranked.max_by_key(|(place, (member, lsn))| (*lsn, member.priority, Reverse(*place)));
    best.map(|(_, (member, lsn))| (&member.name, *lsn))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str, priority: u32) -> Member {
        Member { name: name.into(), priority, has_agent: true, host: "127.0.0.1".into(), port: 5432 }
    }

    fn expected() -> Expected {
        let history = History { timeline: Timeline(2), forks: vec![(Timeline(1), Lsn(100))] };
        Expected {
            system: Some(SystemIdentifier(7)),
            history,
            furthest: Lsn(1000),
            max_lag: 50,
            allow_data_loss: false,
        }
    }

    fn standing(member: &Member, timeline: u32, lsn: u64) -> Standing<'_> {
        let reach = Some((Timeline(timeline), Lsn(lsn)));
        Standing {
            member,
            aside: None,
            absent: None,
            system: Some(SystemIdentifier(7)),
            reach,
            named: false,
            forked: false,
        }
    }

    fn reason(standing: &Standing<'_>, expected: &Expected) -> Option<Reason> {
        judge(standing, expected).err().map(|refused| refused.reason)
    }

    #[test]
    fn a_standby_is_measured_against_the_primary_and_not_against_itself() {
        let b = member("b", 100);
        assert_eq!(judge(&standing(&b, 2, 950), &expected()).ok(), Some(Lsn(950)));
        assert_eq!(reason(&standing(&b, 2, 949), &expected()), Some(Reason::Lagging));
        assert_eq!(judge(&standing(&b, 2, 10), &Expected { allow_data_loss: true, ..expected() }).ok(), Some(Lsn(10)));
    }

    #[test]
    fn another_history_is_never_promoted_whatever_may_be_lost() {
        let (b, any) = (member("b", 100), Expected { allow_data_loss: true, ..expected() });
        assert_eq!(reason(&standing(&b, 1, 101), &any), Some(Reason::OtherHistory));
        assert_eq!(reason(&standing(&b, 3, 1000), &any), Some(Reason::OtherHistory));
        assert_eq!(judge(&standing(&b, 1, 100), &any).ok(), Some(Lsn(100)), "an ancestor, up to where it was left");
        let stranger = Standing { system: Some(SystemIdentifier(8)), ..standing(&b, 2, 1000) };
        assert_eq!(reason(&stranger, &any), Some(Reason::OtherHistory));
        let twin = Standing { forked: true, ..standing(&b, 2, 1000) };
        assert_eq!(reason(&twin, &any), Some(Reason::OtherHistory));
    }

    #[test]
    fn priority_0_is_promoted_only_by_name() {
        let b = member("b", 0);
        assert_eq!(reason(&standing(&b, 2, 1000), &expected()), Some(Reason::Detached));
        assert!(judge(&Standing { named: true, ..standing(&b, 2, 1000) }, &expected()).is_ok());
    }

    #[test]
    fn the_furthest_wins_then_priority_then_the_configuration() {
        let (b, c, d) = (member("b", 1), member("c", 9), member("d", 9));
        let name = |list: &[(&Member, Lsn)]| best(list).map(|(name, _)| name.to_string());
        assert_eq!(name(&[(&b, Lsn(2)), (&c, Lsn(1))]).as_deref(), Some("b"));
        assert_eq!(name(&[(&b, Lsn(1)), (&c, Lsn(1)), (&d, Lsn(1))]).as_deref(), Some("c"));
        assert_eq!(name(&[]), None);
    }
}
