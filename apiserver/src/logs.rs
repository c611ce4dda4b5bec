//! `/logs`: files of the machine's logs, where `--enable-logs-handler` lets them be read.
//!
//! Contract: upstream's `routes.Logs` (deprecated).

use component_base::files::Files;
use http::{HeaderMap, HeaderValue, Method, Response, header};

use crate::response::{self, Body};

/// Where they are asked for.
const PREFIX: &str = "/logs";

/// The files.
#[derive(Debug)]
pub struct Logs(Files);

impl Logs {
    /// Of `/var/log`.
    pub fn new() -> Self {
        Self(Files::new("/var/log"))
    }

    /// The answer to a path below `/logs`; none for another one.
    pub async fn answer(&self, method: &Method, path: &str, headers: &HeaderMap) -> Option<Response<Body>> {
        let rest = path.strip_prefix(PREFIX)?;
        if method != Method::GET && (rest.is_empty() || rest.starts_with('/')) {
            return Some(response::text(405, "405: Method Not Allowed"));
        }
        let mut answer = self.0.answer(PREFIX, path, headers).await?;
        answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
        Some(answer)
    }
}

impl Default for Logs {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_reads_below_the_prefix_are_answered() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("a.log"), "a").unwrap();
        let logs = Logs(Files::new(directory.path()));
        let none = HeaderMap::new();
        let read = logs.answer(&Method::GET, "/logs/a.log", &none).await.unwrap();
        assert_eq!(
            (read.status().as_u16(), &read.headers()[header::CACHE_CONTROL]),
            (200, &HeaderValue::from_static("no-cache, private"))
        );
        assert!(logs.answer(&Method::GET, "/logsx", &none).await.is_none());
        assert!(logs.answer(&Method::POST, "/logsx", &none).await.is_none());
        assert_eq!(logs.answer(&Method::POST, "/logs/a.log", &none).await.unwrap().status(), 405);
    }
}
