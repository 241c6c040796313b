//! How things are called that agents and PostgreSQL know by name: orders and slots.

use crate::topology::Epoch;

/// As many bytes as PostgreSQL's names may have (`NAMEDATALEN` - 1).
const SLOT_BYTES_MAX: usize = 63;

/// The physical slot of a standby, on whichever node is the primary.
#[must_use]
pub fn slot_name(node: &str) -> String {
    let plain = |c: char| if c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' { c } else { '_' };
    "howdah_".chars().chain(node.chars().map(plain)).take(SLOT_BYTES_MAX).collect()
}

/// `CLUSTER-EPOCH-VERB-NODE-N`: 64 characters of those that an order's id may have.
pub(super) fn order_id(cluster: &str, epoch: Epoch, verb: &str, node: &str, n: &str) -> String {
    let plain = |text: &str, most: usize| -> String {
        let may = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '_' };
        text.chars().map(may).take(most).collect()
    };
    // Agents look at the cluster and the node of an order themselves: names cut short mix nothing up.
    let tail = format!("-{epoch}-{verb}-");
    let room = 64_usize.saturating_sub(tail.len()).saturating_sub(n.len()).saturating_sub(1) / 2;
    format!("{}{tail}{}-{n}", plain(cluster, room), plain(node, room))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_has_a_name_that_postgresql_takes() {
        assert_eq!(slot_name("Node-1.b"), "howdah__ode_1_b");
        assert_eq!(slot_name(&"x".repeat(99)).len(), 63);
    }

    #[test]
    fn an_order_has_an_id_that_an_agent_takes() {
        assert_eq!(order_id("main", Epoch(7), "promote", "b", "1"), "main-7-promote-b-1");
        let long = order_id(&"c".repeat(99), Epoch(u64::MAX), "checkpoint", &"é".repeat(99), "123.456");
        assert!(long.len() <= 64, "{long}");
    }
}
