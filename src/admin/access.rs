//! Who may ask the API for what, and the correlation id of each request.
//!
//! | | with `admin_token_file` | without |
//! |---|---|---|
//! | changes | with the admin token | by whoever may use the Unix socket; over TCP while the listener is a loopback address |
//! | looking | with either token, if there is a `read_token_file` | by everybody |
//! | `/healthz`, `/readyz`, `/primary` and the other probes | by everybody | by everybody |
//!
//! Pages in browsers change nothing, whatever they may reach: a browser says where a request comes from, and no command does.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use subtle::ConstantTimeEq;

use super::probes;
use super::refusal::Refusal;
use crate::config::{Http, Secret};

/// The header that ties log lines of the API, the coordinator and the agents together.
pub const CORRELATION: &str = "x-correlation-id";
/// The longest correlation id.
const CORRELATION_BYTES_MAX: usize = 64;

/// The tokens in force.
#[derive(Clone, Debug, Default)]
pub struct Access {
    admin: Option<Secret>,
    read: Option<Secret>,
}

impl Access {
    /// As configured.
    #[must_use]
    pub fn of(http: &Http) -> Self {
        Self { admin: http.admin_token.clone(), read: http.read_token.clone() }
    }
}

/// Who can reach the listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// Whom the file system lets.
    Unix,
    /// Everybody on this machine.
    Loopback,
    /// Everybody.
    Network,
}

/// What a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    /// Whether the daemon lives.
    Health,
    Look,
    Change,
}

impl Wish {
    fn of(method: &Method, path: &str) -> Self {
        match (method, path) {
            (_, "/healthz" | "/readyz" | "/liveness" | "/readiness") => Self::Health,
            (_, path) if probes::PATHS.iter().any(|(known, _)| *known == path) => Self::Health,
            // a question that is too long for a URL
            (_, "/route") | (&Method::GET | &Method::HEAD, _) => Self::Look,
            _ => Self::Change,
        }
    }
}

/// Why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Denied {
    NoToken,
    WrongToken,
    OnlyLooks,
    NotFromThere,
    Browser,
}

impl Denied {
    fn refusal(self) -> Refusal {
        match self {
            Self::NoToken => {
                let how = "send \"Authorization: Bearer TOKEN\" (--token-file)";
                Refusal::new(StatusCode::UNAUTHORIZED, "no-token", format!("this needs a token: {how}"))
            }
            Self::WrongToken => {
                Refusal::new(StatusCode::UNAUTHORIZED, "wrong-token", "the token is not the one in the daemon's file")
            }
            Self::OnlyLooks => {
                let why = "the token is the one for looking; changes need the one in admin_token_file";
                Refusal::new(StatusCode::FORBIDDEN, "read-only-token", why)
            }
            Self::NotFromThere => {
                let why = "changes over a network need a token: set http.admin_token_file, or listen on a loopback \
                           address or a Unix socket";
                Refusal::new(StatusCode::FORBIDDEN, "no-admin-token", why)
            }
            Self::Browser => {
                Refusal::new(StatusCode::FORBIDDEN, "browser", "changes are not taken from pages in a browser")
            }
        }
    }
}

fn decide(access: &Access, reach: Reach, wish: Wish, token: Option<&str>) -> Result<(), Denied> {
    let is = |known: &Option<Secret>| match (known, token) {
        // both sides are hashed by nobody: the length may show, the content does not
        (Some(known), Some(token)) => bool::from(known.reveal().as_bytes().ct_eq(token.as_bytes())),
        (Some(_), None) | (None, _) => false,
    };
    let (admin, read) = (is(&access.admin), is(&access.read));
    let unknown = if token.is_some() { Denied::WrongToken } else { Denied::NoToken };
    match wish {
        Wish::Health => Ok(()),
        Wish::Look if access.read.is_none() || admin || read => Ok(()),
        Wish::Look => Err(unknown),
        Wish::Change if admin => Ok(()),
        Wish::Change if read => Err(Denied::OnlyLooks),
        Wish::Change if access.admin.is_some() => Err(unknown),
        Wish::Change if reach == Reach::Network => Err(Denied::NotFromThere),
        Wish::Change => Ok(()),
    }
}

/// What the gate needs to know.
#[derive(Clone)]
pub(super) struct Gate {
    pub(super) access: Arc<dyn Fn() -> Access + Send + Sync>,
    pub(super) reach: Reach,
}

/// The correlation id of a request.
#[derive(Clone, Debug)]
pub(super) struct Correlation(pub(super) String);

/// Before every handler.
pub(super) async fn gate(State(gate): State<Gate>, mut request: Request, next: Next) -> Response {
    let correlation = match correlation(request.headers()) {
        Ok(correlation) => correlation,
        Err(refusal) => return refusal.into_response(),
    };
    let wish = Wish::of(request.method(), request.uri().path());
    let allowed = match request.headers().contains_key(header::ORIGIN) && wish == Wish::Change {
        true => Err(Denied::Browser),
        false => decide(&(gate.access)(), gate.reach, wish, bearer(request.headers())),
    };
    let mut answer = match allowed {
        Ok(()) => {
            request.extensions_mut().insert(Correlation(correlation.clone()));
            next.run(request).await
        }
        Err(denied) => {
            tracing::warn!(correlation, method = %request.method(), path = request.uri().path(), ?denied, "api: refused");
            let mut answer = denied.refusal().into_response();
            if answer.status() == StatusCode::UNAUTHORIZED {
                answer.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            answer
        }
    };
    if let Ok(value) = HeaderValue::from_str(&correlation) {
        answer.headers_mut().insert(CORRELATION, value);
    }
    answer
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// The request's own, or a new one.
fn correlation(headers: &HeaderMap) -> Result<String, Refusal> {
    let Some(given) = headers.get(CORRELATION) else {
        return Ok(format!("{:016x}", rand::random::<u64>()));
    };
    let plain = |text: &&str| {
        let known = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        (1..=CORRELATION_BYTES_MAX).contains(&text.len()) && text.bytes().all(known)
    };
    given.to_str().ok().filter(plain).map(str::to_owned).ok_or_else(|| {
        let error = "X-Correlation-Id is not 1 to 64 letters, digits, \"-\", \"_\" and \".\"";
        Refusal::new(StatusCode::BAD_REQUEST, "malformed", error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADMIN: &str = "admin-token-0123456789";
    const READ: &str = "read-token-0123456789";

    fn access(admin: bool, read: bool) -> Access {
        let secret = |given: bool, text: &str| given.then(|| Secret::new(text.to_owned()));
        Access { admin: secret(admin, ADMIN), read: secret(read, READ) }
    }

    #[test]
    fn without_tokens_changes_come_from_this_machine_only() {
        let none = access(false, false);
        for reach in [Reach::Unix, Reach::Loopback] {
            assert_eq!(decide(&none, reach, Wish::Change, None), Ok(()));
        }
        assert_eq!(decide(&none, Reach::Network, Wish::Change, None), Err(Denied::NotFromThere));
        assert_eq!(decide(&none, Reach::Network, Wish::Change, Some("anything")), Err(Denied::NotFromThere));
        assert_eq!(decide(&none, Reach::Network, Wish::Look, None), Ok(()));
    }

    #[test]
    fn with_tokens_only_the_right_one_does() {
        for reach in [Reach::Unix, Reach::Loopback, Reach::Network] {
            let both = access(true, true);
            let ask = |wish, token| decide(&both, reach, wish, token);
            assert_eq!(ask(Wish::Change, Some(ADMIN)), Ok(()));
            assert_eq!(ask(Wish::Change, Some(READ)), Err(Denied::OnlyLooks));
            assert_eq!(ask(Wish::Change, Some("admin-token-012345678")), Err(Denied::WrongToken));
            assert_eq!(ask(Wish::Change, Some("")), Err(Denied::WrongToken));
            assert_eq!(ask(Wish::Change, None), Err(Denied::NoToken));
            assert_eq!(ask(Wish::Look, Some(ADMIN)), Ok(()));
            assert_eq!(ask(Wish::Look, Some(READ)), Ok(()));
            assert_eq!(ask(Wish::Look, None), Err(Denied::NoToken));
            assert_eq!(ask(Wish::Look, Some("other")), Err(Denied::WrongToken));
            assert_eq!(ask(Wish::Health, None), Ok(()));
            assert_eq!(decide(&access(true, false), reach, Wish::Look, None), Ok(()));
        }
    }

    #[test]
    fn every_method_but_looking_is_a_change() {
        assert_eq!(Wish::of(&Method::GET, "/clusters/main"), Wish::Look);
        assert_eq!(Wish::of(&Method::HEAD, "/status"), Wish::Look);
        assert_eq!(Wish::of(&Method::POST, "/route"), Wish::Look);
        assert_eq!(Wish::of(&Method::GET, "/readyz"), Wish::Health);
        for method in [Method::POST, Method::PUT, Method::DELETE, Method::PATCH, Method::OPTIONS] {
            assert_eq!(Wish::of(&method, "/clusters/main/pause"), Wish::Change);
        }
    }

    #[test]
    fn a_correlation_id_is_taken_or_made_and_never_a_way_into_the_log() {
        let of = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(CORRELATION, HeaderValue::from_str(text).unwrap());
            correlation(&headers)
        };
        assert_eq!(of("deploy-7.a_b").unwrap(), "deploy-7.a_b");
        for wrong in ["", "a b", "a\tb", "ü", &"x".repeat(65)] {
            assert!(of(wrong).is_err(), "{wrong}");
        }
        assert_eq!(correlation(&HeaderMap::new()).unwrap().len(), 16);
    }

    #[test]
    fn a_token_follows_its_scheme() {
        let of = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, HeaderValue::from_static(text));
            bearer(&headers).map(str::to_owned)
        };
        assert_eq!(of("Bearer abc").as_deref(), Some("abc"));
        assert_eq!(of("bearer  abc").as_deref(), Some("abc"));
        assert_eq!(of("Basic abc"), None);
        assert_eq!(of("abc"), None);
    }
}
