//! `GET /metrics`: everything that is counted or known, as Prometheus reads it.
//!
//! Each answer is made from snapshots, of its own: what is gone (a pool, a node, a database) is not in the next one, and two who
//! ask at once do not meet. Names that clients bring along (databases behind `"*"`, users) have at most so many series of their
//! own (`named`).
//!
//! - [`families`]: every metric with its meaning; `docs/metrics.md` is written from it
//! - `page`: values in, text out
//! - `daemon`, `traffic`, `clusters`, `catalogs`: where the values come from
//!
//! Statements have no metrics: the few that matter change from day to day, each would leave a series behind, and one that falls
//! out of a top list and comes back looks to `rate()` like a burst. They are in the console's `SHOW STATEMENTS`.

mod catalogs;
mod clusters;
mod daemon;
pub mod families;
mod named;
mod page;
mod traffic;

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;

use super::http::Sources;
pub use daemon::{ClientStates, DaemonFacts};
pub use named::Named;
use page::Page;
pub(in crate::admin) use page::family;

/// The handler.
pub(super) async fn metrics(State(sources): State<Sources>) -> impl IntoResponse {
    let told = match &sources.survey {
        Some(survey) => survey.look().await,
        None => Vec::new(),
    };
    let mut page = Page::new();
    daemon::gather(&mut page, &sources);
    traffic::gather(&mut page, &sources);
    clusters::gather(&mut page, &sources);
    catalogs::gather(&mut page, &told);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], page.render())
}
