//! What howdah itself reads from the catalogue of the corpus's database.

use std::sync::Arc;
use std::time::Instant;

use howdah::catalog::HiddenCatalog;
use howdah::catalog::hidden::Reading;
use howdah::sql::knowledge::Knowledge;
use howdah::topology::{Board, ClusterView, Topology};

use crate::hidden::watched;
use crate::support::{Node, SOON};

/// Waits for it.
pub async fn read(node: &Node, database: &str) -> Arc<Reading> {
    let board = Arc::new(Board::new());
    let catalog = HiddenCatalog::start(vec![watched(node)], Arc::clone(&board));
    let view = catalog.view("main", database);
    let cluster = ClusterView { primary: Some(node.name().into()), ..ClusterView::default() };
    board.publish(Topology { clusters: [("main".into(), Arc::new(cluster))].into() });
    let deadline = Instant::now() + SOON;
    loop {
        let reading = Arc::clone(&view.reading());
        if reading.generation() > 0 {
            return reading;
        }
        assert!(Instant::now() < deadline, "nothing is known within {SOON:?}");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}
