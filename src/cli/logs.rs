//! The daemon's log: level and form, both of which a reload changes.

use std::io::IsTerminal;

use tracing_subscriber::layer::Layered;
use tracing_subscriber::prelude::*;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

use crate::config::{Log, LogFormat};

type Filtered = Layered<reload::Layer<EnvFilter, Registry>, Registry>;
type Form = Box<dyn Layer<Filtered> + Send + Sync>;

/// What a reload changes of it.
#[derive(Clone)]
pub(super) struct Logs {
    filter: reload::Handle<EnvFilter, Registry>,
    form: reload::Handle<Form, Filtered>,
}

impl Logs {
    /// From here on everything is written.
    pub(super) fn start(log: &Log) -> Self {
        let (filter_layer, filter) = reload::Layer::new(level(log));
        let (form_layer, form) = reload::Layer::new(form_of(log));
        tracing_subscriber::registry().with(filter_layer).with(form_layer).init();
        Self { filter, form }
    }

    /// As the file says now.
    pub(super) fn reload(&self, log: &Log) {
        // both fail only once the subscriber is gone
        let _ = self.filter.reload(level(log));
        let _ = self.form.reload(form_of(log));
    }
}

/// howdah's own words at the configured level; libraries only when something is wrong with them.
fn level(log: &Log) -> EnvFilter {
    EnvFilter::new(format!("warn,howdah={}", log.level.as_str()))
}

fn form_of(log: &Log) -> Form {
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false);
    match log.format {
        LogFormat::Text => layer.with_ansi(std::io::stderr().is_terminal()).boxed(),
        LogFormat::Json => layer.json().flatten_event(true).boxed(),
    }
}
