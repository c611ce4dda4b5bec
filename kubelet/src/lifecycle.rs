//! Lifecycle hooks: what runs right after a container starts and before it is stopped.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, HTTPGetAction, LifecycleHandler};

use crate::{
    metrics,
    probe::{self, Target, http::HttpError},
    runtime::Runtime,
};

/// What requests of hooks call themselves.
const AGENT: &str = "kube-lifecycle/1.36";

/// A hook that failed.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// The command could not be run.
    #[error(transparent)]
    Runtime(#[from] crate::runtime::RuntimeError),
    /// The command ended non-zero.
    #[error("command '{command}' exited with {code}: {output}")]
    Exit {
        /// The command.
        command: String,
        /// Its exit code.
        code: i32,
        /// What it wrote.
        output: String,
    },
    /// The request failed.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The server answered with an error.
    #[error("HTTP hook failed with statuscode: {0}")]
    Status(u16),
    /// The port could not be reached.
    #[error("{0}")]
    Tcp(String),
}

/// Runs a hook to its end; it takes as long as it takes, the caller sets the limit.
///
/// # Errors
/// When it fails.
pub async fn run(
    runtime: &Runtime,
    id: &str,
    ip: &str,
    container: &Container,
    handler: &LifecycleHandler,
    limit: Duration,
) -> Result<(), HookError> {
    let target = Target { id, ip, container };
    if let Some(exec) = &handler.exec {
        let command = exec.command.clone().unwrap_or_default();
        let answer = runtime.exec_sync(id, &command, limit).await?;
        if answer.exit_code != 0 {
            let output = String::from_utf8_lossy(&answer.stderr).into_owned();
            return Err(HookError::Exit { command: command.join(" "), code: answer.exit_code, output });
        }
    } else if let Some(get) = &handler.http_get {
        let status = request(&target, get, limit).await?;
        if !(200..400).contains(&status) {
            return Err(HookError::Status(status));
        }
    } else if let Some(sleep) = &handler.sleep {
        let mut asleep = Asleep { ended: false };
        tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))).await;
        asleep.ended = true;
    } else if let Some(tcp) = &handler.tcp_socket
        && let probe::Finding::Failure(text) | probe::Finding::Unknown(text) =
            probe::tcp::probe(&target, tcp, limit.min(Duration::from_secs(30))).await
    {
        return Err(HookError::Tcp(text));
    }
    Ok(())
}

/// Makes a hook's request. What speaks HTTP where HTTPS was asked for is asked so again, as it was before hooks knew
/// HTTPS.
async fn request(target: &Target<'_>, get: &HTTPGetAction, limit: Duration) -> Result<u16, HttpError> {
    let first = probe::http::get(target, get, limit, AGENT).await;
    let is_secure = get.scheme.as_deref().is_some_and(|scheme| scheme.eq_ignore_ascii_case("HTTPS"));
    if !(is_secure && first.as_ref().is_err_and(HttpError::is_plain_answer)) {
        return first;
    }
    let mut plain = HTTPGetAction { scheme: Some("HTTP".to_owned()), ..get.clone() };
    if let Some(headers) = &mut plain.http_headers {
        // What is secret is not sent in the clear.
        headers.retain(|header| !header.name.eq_ignore_ascii_case("authorization"));
    }
    let second = probe::http::get(target, &plain, limit, AGENT).await?;
    metrics::get().hook_fallbacks.inc();
    Ok(second)
}

/// A hook that sleeps; one that is dropped before its time was ended.
struct Asleep {
    ended: bool,
}

impl Drop for Asleep {
    fn drop(&mut self) {
        if !self.ended {
            metrics::get().sleep_cut_short.inc();
        }
    }
}
