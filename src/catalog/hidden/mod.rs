//! Which names in a database may hide a change of session state from whoever reads statements only: functions, triggers,
//! views, defaults, checks and the like that set, lock, listen, or run what they are given.
//!
//! One [`HiddenView`] per cluster and database, read without a lock by all workers and kept true by one task on the control
//! thread (`reader`): every 30 s, and at once after a doubt. What is in it is a closure (`graph`) over what single sources
//! and expressions do (`source`), asked in one exchange (`question`). From the same answer comes what may be read on a
//! standby ([`Reading`]), which has a closure of its own.
//!
//! What changes in a database behind howdah's back is found within 30 s; what passes by howdah is a [`HiddenView::doubt`].
//!
//! Invariant: a view that says [`Hidden::Known`], or has a [`Reading`] with a generation, was asked for after the last doubt
//! (`tests`).

mod answer;
mod graph;
mod names;
mod own;
mod question;
mod reader;
mod reading;
mod source;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::Notify;

pub use names::Names;
pub use reader::HiddenError;
pub use reading::{Facts, Reading};

use self::reader::{Reader, Surroundings};
use super::connection::WatchedCluster;
use crate::topology::{Board, ClusterName};

/// Of the next [`Reading`] that says something new.
static GENERATION: AtomicU64 = AtomicU64::new(1);

/// What may hide in one database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Hidden {
    /// Anything: it has not been read, not since the last doubt, or cannot be.
    #[default]
    Unknown,
    /// These names.
    Known(Names),
}

/// One database's snapshot, shared by all that have a pool there. It is read for as long as somebody holds it.
#[derive(Debug)]
pub struct HiddenView {
    cluster: ClusterName,
    dbname: Box<str>,
    hidden: ArcSwap<Hidden>,
    reading: ArcSwap<Reading>,
    /// Held while a snapshot changes.
    doubts: Mutex<Doubts>,
    wake: Arc<Notify>,
    trouble: ArcSwap<Option<HiddenError>>,
}

#[derive(Debug, Default)]
struct Doubts {
    /// How many there have been.
    count: u64,
    /// What was last read, doubted or not: if it turns out to be true still, its generation is.
    last: Arc<Reading>,
}

impl HiddenView {
    fn new(cluster: &str, dbname: &str) -> Self {
        Self {
            cluster: cluster.into(),
            dbname: dbname.into(),
            hidden: ArcSwap::default(),
            reading: ArcSwap::default(),
            doubts: Mutex::default(),
            wake: Arc::default(),
            trouble: ArcSwap::default(),
        }
    }

    /// A view that nobody reads: nothing is known of that database.
    #[must_use]
    pub fn unread(cluster: &str, dbname: &str) -> Arc<Self> {
        Arc::new(Self::new(cluster, dbname))
    }

    /// What is known now. Never waits.
    #[must_use]
    pub fn read(&self) -> Guard<Arc<Hidden>> {
        self.hidden.load()
    }

    /// What may be read on a standby. Never waits; nothing may as long as nothing is known.
    #[must_use]
    pub fn reading(&self) -> Guard<Arc<Reading>> {
        self.reading.load()
    }

    /// Whether it is being read, and not known yet.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        matches!(**self.hidden.load(), Hidden::Unknown) && !self.is_hopeless()
    }

    /// Whether it cannot be read, for a reason that somebody has to see to.
    #[must_use]
    pub fn is_hopeless(&self) -> bool {
        self.trouble.load().is_some()
    }

    /// Why it could not be read the last time, for people.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.trouble.load().as_ref().as_ref().map(ToString::to_string)
    }

    /// Something passed by that may have changed it: nothing is known from now on, until a read that begins later has
    /// ended. To be called when the change can be seen by others, so after the statement's block; before that, and for
    /// the one who made it, only the caller can know.
    pub fn doubt(&self) {
        self.doubt_also(|| self.hidden.store(Arc::default()));
    }

    /// The same for what may be read on a standby alone ([`Effects::OUTDATES`](crate::sql::effects::Effects::OUTDATES)).
    pub fn outdate(&self) {
        self.doubt_also(|| {});
    }

    fn doubt_also(&self, forget: impl FnOnce()) {
        let mut doubts = self.doubts.lock();
        doubts.count += 1;
        self.reading.store(Arc::default());
        forget();
        drop(doubts);
        self.wake.notify_one();
    }

    /// What a read has to be as young as.
    fn doubts(&self) -> u64 {
        self.doubts.lock().count
    }

    /// Takes over what was read, unless it has been doubted since.
    fn publish(&self, names: Names, facts: Facts, asked_after: u64) {
        let mut doubts = self.doubts.lock();
        if doubts.count != asked_after {
            return;
        }
        let hidden = Hidden::Known(names);
        if **self.hidden.load() != hidden {
            self.hidden.store(Arc::new(hidden));
        }
        if !doubts.last.says(&facts) {
            doubts.last = Arc::new(Reading::new(GENERATION.fetch_add(1, Ordering::Relaxed), facts));
        }
        if !Arc::ptr_eq(&doubts.last, &self.reading.load()) {
            self.reading.store(Arc::clone(&doubts.last));
        }
    }

    /// Nothing is known any more, as it cannot be read.
    fn forget(&self) {
        let mut doubts = self.doubts.lock();
        self.hidden.store(Arc::default());
        self.reading.store(Arc::default());
        doubts.last = Arc::default();
    }
}

impl Drop for HiddenView {
    fn drop(&mut self) {
        self.wake.notify_one(); // its reader has nothing left to do
    }
}

type Views = HashMap<ClusterName, HashMap<Box<str>, Weak<HiddenView>>>;

/// The views of all clusters' databases. Shared by all threads; the reading is done where it was started.
#[derive(Debug)]
pub struct HiddenCatalog {
    views: Mutex<Views>,
    surroundings: Arc<Surroundings>,
    control: Handle,
}

impl HiddenCatalog {
    /// Starts with no database. Must be called inside the tokio runtime that is to do the reading.
    #[must_use]
    pub fn start(clusters: Vec<WatchedCluster>, board: Arc<Board>) -> Arc<Self> {
        let surroundings = Arc::new(Surroundings::new(clusters, board));
        Arc::new(Self { views: Mutex::default(), surroundings, control: Handle::current() })
    }

    /// Asks these clusters from now on. What is known of one that is spoken to differently now is doubted.
    pub fn replace(&self, clusters: Vec<WatchedCluster>) {
        for name in self.surroundings.replace(clusters) {
            let views = self.views.lock();
            let doubted: Vec<_> =
                views.get(&name).into_iter().flat_map(HashMap::values).filter_map(Weak::upgrade).collect();
            drop(views);
            doubted.iter().for_each(|view| view.doubt());
        }
    }

    /// The view of a database, as the server calls it. Who asks first has it read; the last who lets go ends that.
    #[must_use]
    pub fn view(&self, cluster: &str, dbname: &str) -> Arc<HiddenView> {
        let mut views = self.views.lock();
        if let Some(view) = views.get(cluster).and_then(|databases| databases.get(dbname)).and_then(Weak::upgrade) {
            return view;
        }
        let view = Arc::new(HiddenView::new(cluster, dbname));
        let databases = views.entry(cluster.into()).or_default();
        databases.retain(|_, view| view.strong_count() > 0);
        databases.insert(dbname.into(), Arc::downgrade(&view));
        self.control.spawn(Reader::of(&view, &self.surroundings).run());
        view
    }

    /// One line for each database that cannot be looked into until a person does something, for `/status`.
    #[must_use]
    pub fn missing(&self) -> Vec<String> {
        let views = self.views.lock();
        let views: Vec<_> = views.values().flat_map(HashMap::values).filter_map(Weak::upgrade).collect();
        let line = |view: &Arc<HiddenView>| {
            let trouble = view.trouble.load();
            let error = trouble.as_ref().as_ref().filter(|error| error.needs_a_person())?;
            Some(format!("cluster \"{}\": {error}", view.cluster))
        };
        let mut lines: Vec<String> = views.iter().filter_map(line).collect();
        lines.sort();
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::knowledge::Knowledge as _;

    fn known() -> Hidden {
        Hidden::Known(Names::default())
    }

    #[test]
    fn what_was_read_before_a_doubt_is_not_believed() {
        let view = HiddenView::new("main", "app");
        assert_eq!(**view.read(), Hidden::Unknown);
        view.publish(Names::default(), Facts::default(), view.doubts());
        assert_eq!(**view.read(), known());
        let generation = view.reading().generation();
        assert_ne!(generation, 0);
        let asked_after = view.doubts();
        view.outdate();
        assert_eq!((view.reading().generation(), &**view.read()), (0, &known()));
        view.publish(Names::default(), Facts::default(), view.doubts());
        assert_eq!(view.reading().generation(), generation, "it is true still");
        view.doubt();
        assert_eq!((view.reading().generation(), &**view.read()), (0, &Hidden::Unknown));
        view.publish(Names::default(), Facts::default(), asked_after);
        assert_eq!(**view.read(), Hidden::Unknown, "it was asked for before the doubt");
        view.publish(Names::default(), Facts::default(), view.doubts());
        assert_eq!(**view.read(), known());
        view.publish(Names::default(), Facts::nothing(), view.doubts());
        assert!(view.reading().generation() > generation, "it is not what it was");
        view.forget();
        assert_eq!((view.reading().generation(), &**view.read()), (0, &Hidden::Unknown));
    }

    #[tokio::test]
    async fn a_database_has_one_view_while_somebody_holds_it() {
        let catalog = HiddenCatalog::start(Vec::new(), Arc::new(Board::new()));
        let view = catalog.view("main", "app");
        assert!(Arc::ptr_eq(&view, &catalog.view("main", "app")));
        assert!(
            !Arc::ptr_eq(&view, &catalog.view("main", "other")) && !Arc::ptr_eq(&view, &catalog.view("other", "app"))
        );
        assert_eq!(**view.read(), Hidden::Unknown);
        assert!(catalog.missing().is_empty());
    }
}
