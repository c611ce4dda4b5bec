//! `/debug`: what can be asked of the process itself.
//!
//! Contract: upstream's `routes.DebugFlags` and its profiles. Those of Go's runtime do not exist here; who asks for one is told
//! so with 501 instead of being given something else.

use component_base::logging;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;

use super::{Body, ServeError, Switches, answer};

/// Profiles that clients of Go's servers ask for.
const PROFILES: &[&str] =
    &["allocs", "block", "goroutine", "heap", "mutex", "profile", "symbol", "threadcreate", "trace"];
/// Bytes of a body: a number.
const MAX_BODY: usize = 64;
const PLAIN: &str = "text/plain; charset=utf-8";

/// What is found at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Found {
    Index,
    Arguments,
    Profile(String),
    Verbosity,
}

/// Serves a request below `/debug`.
pub(super) async fn serve(
    switches: Switches,
    request: Request<Incoming>,
) -> Result<Response<Body>, ServeError> {
    let text = |code, text: String| Ok(answer(code, PLAIN, text));
    match find(switches, request.method(), request.uri().path())? {
        Found::Index => {
            let rest = PROFILES.join(" ");
            let index = format!(
                "/debug/pprof/\n\ncmdline\n\nnot kept by this kubelet, which has no Go runtime: {rest}\n"
            );
            text(StatusCode::OK, index)
        }
        Found::Arguments => text(StatusCode::OK, std::env::args().collect::<Vec<_>>().join("\0")),
        Found::Profile(name) => {
            let why = format!("there is no profile {name:?}: this kubelet has no Go runtime\n");
            text(StatusCode::NOT_IMPLEMENTED, why)
        }
        Found::Verbosity => {
            let body = Limited::new(request.into_body(), MAX_BODY).collect().await;
            let body = body.map_err(|error| ServeError::BadRequest(error.to_string()))?.to_bytes();
            let (code, said) = verbosity(&String::from_utf8_lossy(&body));
            text(code, said)
        }
    }
}

fn find(switches: Switches, method: &Method, path: &str) -> Result<Found, ServeError> {
    let not_found = || ServeError::NotFound("404 page not found".to_owned());
    let rest = path.strip_prefix("/debug/").ok_or_else(not_found)?;
    match rest.split('/').next() {
        Some("pprof") if !switches.profiling => return Err(ServeError::Disabled("profiling endpoint is")),
        Some("flags") if !switches.debug_flags => return Err(ServeError::Disabled("flags endpoint is")),
        _ => {}
    }
    match rest {
        "pprof" | "pprof/" => Ok(Found::Index),
        "pprof/cmdline" => Ok(Found::Arguments),
        "flags/v" if method == Method::PUT => Ok(Found::Verbosity),
        "flags/v" => Err(ServeError::NotFound("unrecognized http method".to_owned())),
        rest => {
            let profile = rest.strip_prefix("pprof/").filter(|name| PROFILES.contains(name));
            profile.map(|name| Found::Profile(name.to_owned())).ok_or_else(not_found)
        }
    }
}

/// Sets the verbosity of the log.
fn verbosity(text: &str) -> (StatusCode, String) {
    match text.trim().parse::<u8>() {
        Ok(level) => {
            logging::set_verbosity(level);
            (StatusCode::OK, format!("successfully set klog.logging.verbosity to {level}"))
        }
        Err(error) => {
            (StatusCode::BAD_REQUEST, format!("failed set klog.logging.verbosity {text}: {error}\n"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_found_unless_they_are_switched_off() {
        let on = Switches { debugging: true, profiling: true, debug_flags: true };
        let of = |switches, method: &Method, path: &str| {
            find(switches, method, path).map_err(|error| (error.code().as_u16(), error.to_string()))
        };
        assert_eq!(of(on, &Method::GET, "/debug/pprof/"), Ok(Found::Index));
        assert_eq!(of(on, &Method::GET, "/debug/pprof/cmdline"), Ok(Found::Arguments));
        assert_eq!(of(on, &Method::GET, "/debug/pprof/heap"), Ok(Found::Profile("heap".into())));
        assert_eq!(of(on, &Method::PUT, "/debug/flags/v"), Ok(Found::Verbosity));
        for path in ["/debug/pprof/none", "/debug/flags/v", "/debug/flags/w", "/debug"] {
            assert_eq!(of(on, &Method::GET, path).unwrap_err().0, 404, "{path}");
        }
        let off = Switches { profiling: false, debug_flags: false, ..on };
        assert_eq!(
            of(off, &Method::GET, "/debug/pprof/"),
            Err((405, "profiling endpoint is disabled.".into()))
        );
        assert_eq!(of(off, &Method::PUT, "/debug/flags/v"), Err((405, "flags endpoint is disabled.".into())));
    }

    #[test]
    fn a_verbosity_is_a_number() {
        assert_eq!(verbosity("0\n").0, StatusCode::OK);
        assert_eq!(verbosity("much").0, StatusCode::BAD_REQUEST);
    }
}
