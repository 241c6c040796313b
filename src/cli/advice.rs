//! What to do about a refusal, by its reason. The same as in docs/operations.md.

/// One line for people; none where the refusal itself says it all.
#[must_use]
pub fn advice(reason: &str) -> Option<&'static str> {
    Some(match reason {
        "unknown-node" => "\"howdah nodes\" lists the nodes",
        "not-managed" => "give every node an agent, or let whoever promotes nodes do it",
        "manual" => "failover.mode is \"manual\": howdah failover",
        "paused" => "howdah resume",
        "busy" => "\"howdah status\" says what is under way; ask again when it has ended",
        "wrong-role" => "\"howdah nodes\" says which node is what",
        "no-primary" => "\"howdah explain\" says why there is none; howdah failover --to NODE makes one",
        "no-proof" => {
            "start the old primary's agent again; if its machine is off and stays off: howdah failover --vouch NODE"
        }
        "primary-lives" => "howdah switchover --to NODE changes a primary that lives",
        "no-candidate" => "\"howdah nodes\" says of each node why not",
        "unreachable" => "see that the node and its agent run, and can be reached from the daemon",
        "lagging" => "wait until it has caught up; in a failover --allow-data-loss accepts the loss",
        "other-history" => "howdah rebuild NODE",
        "flapping" => "find out why primaries keep failing, then: howdah failover",
        "detached" => "howdah attach NODE",
        "quarantined" => "repair what the note says, then: howdah attach NODE, or howdah rebuild NODE",
        "store-failed" => "nothing has changed; look at the disk of [store] path",
        "undone" => "everything is as it was before; \"howdah explain\" says more",
        "no-token" | "wrong-token" => "--token-file FILE: the file that the daemon's admin_token_file names, or a copy",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::decide::Reason;

    #[test]
    fn every_reason_of_the_coordinator_has_an_advice_and_a_row_in_the_documentation() {
        let all = [
            Reason::UnknownNode,
            Reason::NotManaged,
            Reason::Manual,
            Reason::Paused,
            Reason::Busy,
            Reason::WrongRole,
            Reason::NoPrimary,
            Reason::NoProof,
            Reason::PrimaryLives,
            Reason::NoCandidate,
            Reason::Unreachable,
            Reason::Lagging,
            Reason::OtherHistory,
            Reason::Flapping,
            Reason::Detached,
            Reason::Quarantined,
            Reason::StoreFailed,
            Reason::Undone,
        ];
        let documentation = include_str!("../../docs/operations.md");
        for reason in all {
            let word = serde_json::to_value(reason).unwrap();
            let word = word.as_str().unwrap();
            assert!(advice(word).is_some(), "{word}");
            assert!(documentation.contains(&format!("| `{word}` |")), "docs/operations.md lacks {word}");
        }
    }
}
