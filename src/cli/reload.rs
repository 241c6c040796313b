//! A reload: everything is read, checked and opened; then all of it takes over at once, or nothing does.
//!
//! SIGHUP, the console's RELOAD and `POST /reload` come by here one after the other (`config/reload/order`), on the control thread. What can
//! fail stands in [`Daemon::prepare`], what cannot in [`Daemon::take_over`].
//!
//! Not here: what differs (`config/reload`), sockets (`doors`, `window`).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use crate::catalog::{HiddenCatalog, Verifiers};
use crate::cluster::coordinator::ManagedCluster;
use crate::cluster::{Coordinators, Watch};
use crate::config::reload::order::{NotReloaded, Order, Outcome, Reloaded};
use crate::config::{self, Config, Problem, Problems};
use crate::net::dial::Dialer;
use crate::proxy::orders::daemon::Change;
use crate::proxy::shared::{Running, Shared};

use super::check::certificates::dates;
use super::doors::{Doors, Exchange};
use super::logs::Logs;
use super::managed::managed;
use super::serve::{lookup, watched};
use super::window::{Next, Window};

/// What a reload reaches.
pub(super) struct Daemon {
    pub(super) path: PathBuf,
    pub(super) shared: Arc<Shared>,
    pub(super) monitor: Arc<Watch>,
    pub(super) coordinators: Arc<Coordinators>,
    pub(super) dialer: Arc<Dialer>,
    pub(super) logs: Logs,
    pub(super) doors: Doors,
    pub(super) window: Window,
}

/// All that a reload needs, ready.
struct Prepared {
    said: Reloaded,
    managed: Vec<ManagedCluster>,
    running: Running,
    doors: Exchange,
    window: Next,
}

impl Daemon {
    /// Carries out an order.
    pub(super) async fn carry_out(&mut self, order: Order) {
        let outcome = self.reload(&order.by, None).await;
        order.answer(outcome);
    }

    /// Reads the files again and applies them, or the change of what is in force; or says why not and changes nothing.
    pub(super) async fn reload(&mut self, by: &str, change: Option<Change>) -> Outcome {
        let reloading =
            sd_notify::NotifyState::monotonic_usec_now().map(|now| [sd_notify::NotifyState::Reloading, now]);
        let _ = reloading.and_then(|reloading| sd_notify::notify(&reloading)); // Type=notify-reload wants the time as well
        let config = self.path.display().to_string();
        let begun = Instant::now();
        let outcome = match self.prepare(change).await {
            Ok(prepared) => {
                let said = self.take_over(prepared).await;
                for change in &said.changed {
                    tracing::info!(%change, "reload");
                }
                for change in &said.restart {
                    tracing::warn!(%change, "reload: takes effect at the next start");
                }
                for warning in &said.warnings {
                    tracing::warn!("{warning}");
                }
                self.shared.incidents.reloaded(true, begun.elapsed());
                tracing::info!(config, by, "reloaded");
                Ok(said)
            }
            Err(problems) => {
                self.shared.incidents.reloaded(false, begun.elapsed());
                tracing::error!(config, by, "reload refused, nothing has changed:\n{problems:#}");
                Err(NotReloaded::Problems(problems))
            }
        };
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
        outcome
    }

    /// Everything that may fail.
    async fn prepare(&self, change: Option<Change>) -> Result<Prepared, Problems> {
        let before = self.shared.running();
        let mut config = match change {
            None => {
                let path = self.path.clone();
                // in a thread of its own: a file system that hangs holds up nothing else
                let loaded = tokio::task::spawn_blocking(move || config::load(&path)).await;
                loaded.map_err(|error| problem(&self.path, error.to_string()))??
            }
            Some(change) => {
                let mut config = before.config.clone();
                change(&mut config).map_err(|why| problem(&self.path, why))?;
                config
            }
        };
        let restart = config::compare(&before.config, &config);
        config::keep_running(&before.config, &mut config);
        let (over, soon) = dates(&config);
        let warnings = over.iter().chain(&soon).map(ToString::to_string).collect();
        let said = Reloaded { changed: before.config.written.changes(&config.written), restart, warnings };
        let (managed, mut problems) = match managed(&config) {
            Ok(managed) => (managed, Vec::new()),
            Err(problems) => (Vec::new(), problems.into_vec()),
        };
        let running = match Running::new(config, &self.dialer) {
            Ok(running) => running,
            Err(more) => {
                problems.extend(more.into_vec());
                return Err(all(problems));
            }
        };
        problems.extend(self.interrupted(&running.config, &managed));
        Problems::none_or_all(problems)?;
        self.readable(&running.config, &managed).await?;
        let window = self.window.prepare(&running.config).await?;
        let doors = self.doors.prepare(&running.config, &running.entrances).await?;
        Ok(Prepared { said, managed, running, doors, window })
    }

    /// What has begun in a cluster must end under the coordinator that has begun it.
    fn interrupted(&self, config: &Config, managed: &[ManagedCluster]) -> Vec<Problem> {
        let before = &self.shared.running().config;
        let busy = before.clusters.iter().filter_map(|(name, cluster)| {
            let operation = self.coordinators.explanation(name)?.operation?;
            let after = managed.iter().find(|managed| managed.settings.cluster == *name);
            let nodes_stay = || {
                let after = config.clusters.get(name);
                let same = |node: &config::Node| {
                    after.is_some_and(|after| {
                        after.nodes.iter().any(|other| {
                            (&other.name, &other.host, other.port, &other.agent)
                                == (&node.name, &node.host, node.port, &node.agent)
                        })
                    })
                };
                cluster.nodes.iter().all(same)
            };
            if after.is_some() && nodes_stay() {
                return None;
            }
            let key = format!("clusters.{}", config::toml_key(name));
            let message = format!("{operation} is under way; its cluster, nodes and failover.mode cannot change now");
            Some(config.written.problem(&key, message, "reload again when it has ended (\"howdah status\")"))
        });
        busy.collect()
    }

    /// A coordinator that has forgotten what it has begun must not begin anew.
    async fn readable(&self, config: &Config, managed: &[ManagedCluster]) -> Result<(), Problems> {
        let mut problems = Vec::new();
        for managed in managed {
            let name = &managed.settings.cluster;
            if let Err(error) = self.coordinators.try_record(name).await {
                let key = format!("clusters.{}", config::toml_key(name));
                problems.push(config.written.problem(&key, format!("no coordinator can take over: {error}"), ""));
            }
        }
        Problems::none_or_all(problems)
    }

    /// Nothing here fails.
    async fn take_over(&mut self, prepared: Prepared) -> Reloaded {
        let Prepared { said, managed, running, doors, window } = prepared;
        self.logs.reload(&running.config.log);
        self.dialer.reload(&running.config.network);
        let clusters = watched(&running);
        let (catalog, hidden): (&Arc<Verifiers>, &Arc<HiddenCatalog>) = (&self.shared.catalog, &self.shared.hidden);
        catalog.replace(clusters.clone(), lookup(&running.config));
        hidden.replace(clusters.clone());
        self.monitor.replace(clusters);
        if let Err(error) = self.coordinators.replace(managed).await {
            tracing::error!(%error, "a coordinator could not take over");
        }
        self.shared.reload(running);
        let running = self.shared.running();
        self.doors.exchange(&running.config, &running.entrances, doors).await;
        self.window.exchange(window);
        said
    }
}

fn all(problems: Vec<Problem>) -> Problems {
    match Problems::none_or_all(problems) {
        Err(problems) => problems,
        Ok(()) => problem(std::path::Path::new(""), "refused".to_owned()),
    }
}

fn problem(file: &std::path::Path, message: String) -> Problems {
    Problem { file: file.to_owned(), place: None, key: String::new(), message, advice: None, excerpt: None }.into()
}
