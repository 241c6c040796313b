//! How often the primary has changed by itself lately: the first failover is free, the second waits for more evidence, the third
//! needs an operator.

use std::time::Duration;

use super::machine::Decider;

/// For so long the primary must have failed before a second failover.
const EVIDENCE: Duration = Duration::from_secs(2);

/// Whether a failover may begin by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leave {
    /// Yes.
    Now,
    /// When the primary still fails then.
    After(Duration),
    /// When an operator says so.
    Never,
}

impl Decider {
    pub(super) fn leave_to_fail_over(&self) -> Leave {
        let window = self.settings.flap_window.as_millis();
        let recent = |at: u64| window > 0 && u128::from(self.wall_ms.saturating_sub(at)) <= window;
        let unplanned = self.record.history.iter().filter(|change| !change.planned && recent(change.wall_ms)).count();
        let failing = self.op.failing_since.map_or(Duration::ZERO, |since| self.now.saturating_sub(since));
        match unplanned {
            0 => Leave::Now,
            1 if failing >= EVIDENCE => Leave::Now,
            1 => Leave::After(EVIDENCE.saturating_sub(failing)),
            _ => Leave::Never,
        }
    }
}
