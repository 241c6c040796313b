//! What the workers have counted, put together for whoever looks.

use super::shared::Shared;
use crate::stats::{StatementStatistics, Statistics};

impl Shared {
    /// Everything that was counted, at this moment.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        Statistics::default()
    }

    /// The statements that are followed, in no order.
    #[must_use]
    pub fn statements(&self) -> Vec<StatementStatistics> {
        Vec::new()
    }
}
