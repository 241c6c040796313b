//! When the demo shall end: Ctrl-C, SIGTERM, SIGHUP (the terminal was closed).

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::signal::unix::{SignalKind, signal};

/// Raised by the first signal. A second one ends the process at once; the scratch directory's watcher cleans up then.
#[derive(Clone, Default)]
pub struct Stop {
    flag: Arc<AtomicBool>,
    changed: Arc<(Mutex<()>, Condvar)>,
}

impl Stop {
    /// Listens for signals from now on.
    ///
    /// # Errors
    /// When the handlers cannot be installed.
    pub fn on_signals() -> io::Result<Self> {
        let stop = Self::default();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut signals = {
            let _inside = runtime.enter();
            [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()]
                .into_iter()
                .map(signal)
                .collect::<io::Result<Vec<_>>>()?
        };
        let raised = stop.clone();
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            runtime.block_on(async {
                for _ in 0..2 {
                    std::future::poll_fn(|context| {
                        let any = signals.iter_mut().any(|signal| signal.poll_recv(context).is_ready());
                        if any { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
                    })
                    .await;
                    if raised.is_raised() {
                        std::process::exit(130);
                    }
                    raised.raise();
                }
            });
        })?;
        Ok(stop)
    }

    /// Asks for the end.
    pub fn raise(&self) {
        let _held = self.changed.0.lock();
        self.flag.store(true, Ordering::Relaxed);
        self.changed.1.notify_all();
    }

    /// Whether the end was asked for.
    #[must_use]
    pub fn is_raised(&self) -> bool {
        self.flag.load(Ordering::Relaxed)
    }

    /// The flag itself, for [`super::postgres::Builder::interrupt`].
    #[must_use]
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.flag)
    }

    /// Waits until `moment` or the end, whichever is first. Says whether it is the end.
    #[must_use]
    pub fn wait_until(&self, moment: Instant) -> bool {
        let mut held = self.changed.0.lock();
        while !self.is_raised() && !self.changed.1.wait_until(&mut held, moment).timed_out() {}
        self.is_raised()
    }

    /// [`Stop::wait_until`], from now.
    #[must_use]
    pub fn wait(&self, duration: Duration) -> bool {
        self.wait_until(Instant::now() + duration)
    }
}
