//! What the nodes' own catalogs say (`survey`), on the page.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::super::survey::{Answers, Sample};
use super::page::{Labelled, Page};
use crate::topology::{ClusterName, NodeName};

pub(super) fn gather(page: &mut Page, told: &[(ClusterName, NodeName, Arc<Answers>)]) {
    // a series that is there twice makes the whole scrape useless: of two the first counts
    let mut seen = BTreeSet::new();
    for (cluster, node, answers) in told {
        let labels: [Labelled<'_>; 2] = [("cluster", cluster), ("node", node)];
        let [of, name] = labels;
        page.flag("howdah_postgres_up", &labels, answers.reached);
        page.level("howdah_postgres_ask_seconds", &labels, answers.took.as_secs_f64());
        if let Some(version) = &answers.version {
            page.gauge("howdah_postgres_info", &[of, name, ("version", version)], 1);
        }
        for ((query, database), answered) in &answers.own {
            page.flag("howdah_own_query_up", &[of, name, ("query", query), ("database", database)], *answered);
        }
        for Sample { metric, kind, help, labels: more, value } in &answers.samples {
            let more = more.iter().map(|(name, value)| (&**name, value.as_str()));
            let labels: Vec<Labelled<'_>> = labels.into_iter().chain(more).collect();
            let series: Vec<&str> = [&**metric].into_iter().chain(labels.iter().map(|(_, value)| *value)).collect();
            if seen.insert(series) {
                page.own(metric, *kind, help, &labels, *value);
            }
        }
    }
}
