//! Certificates and their dates, all that a configuration names: told by `howdah check`, at a start and by a reload.
//!
//! Not here: whether a key belongs to its certificate (`net/tls`).

use crate::config::{self, Config, Problem};
use crate::net::tls::{read_certificates, validity};

/// An expiry that is nearer than this is told.
const SOON_S: i64 = 14 * 24 * 3600;

/// Certificates whose time is over or has not come, and those whose time will be over soon.
pub(in crate::cli) fn dates(config: &Config) -> (Vec<Problem>, Vec<Problem>) {
    let mut files = Vec::new();
    for listener in &config.listeners {
        let key = |name: &str| format!("listeners[{}].tls.{name}", listener.address);
        let tls = listener.tls.iter();
        files.extend(tls.flat_map(|tls| [(key("cert"), tls.cert.clone()), (key("ca"), tls.ca.clone())]));
    }
    for (name, cluster) in &config.clusters {
        let at = format!("clusters.{}", config::toml_key(name));
        files.push((format!("{at}.agents.cert"), cluster.agents.cert.clone()));
        files.push((format!("{at}.agents.ca"), cluster.agents.ca.clone()));
        for node in &cluster.nodes {
            let key = |name: &str| format!("{at}.nodes[{}].tls.{name}", node.name);
            let tls = node.tls.iter();
            files.extend(tls.flat_map(|tls| [(key("cert"), tls.cert.clone()), (key("ca"), tls.ca.clone())]));
        }
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let (mut problems, mut warnings) = (Vec::new(), Vec::new());
    for (key, path) in files.into_iter().filter_map(|(key, path)| Some((key, path?))) {
        // what cannot be read is told when TLS is made of it
        let Some(first) = read_certificates(&path).ok().and_then(|all| all.into_iter().next()) else { continue };
        let Some((from, until)) = validity(&first).map(std::ops::RangeInclusive::into_inner) else { continue };
        let days = |s: i64| s / (24 * 3600);
        let path = path.display();
        let advice = "put a new one in its place, then reload";
        if until < now {
            let message = format!("the certificate in \"{path}\" has expired, {} days ago", days(now - until));
            problems.push(config.written.problem(&key, message, advice));
        } else if from > now {
            let message = format!("the certificate in \"{path}\" is valid only in {} days", days(from - now));
            problems.push(config.written.problem(&key, message, "is this machine's clock right?"));
        } else if until - now < SOON_S {
            let message = format!("the certificate in \"{path}\" expires in {} days", days(until - now));
            warnings.push(config.written.problem(&key, message, advice));
        }
    }
    (problems, warnings)
}
