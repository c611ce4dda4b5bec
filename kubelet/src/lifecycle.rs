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
    /// There is nothing in it that could be run.
    #[error("Cannot run handler: invalid handler")]
    Handler,
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
        // Any answer will do.
        request(&target, get, limit).await?;
    } else if let Some(sleep) = &handler.sleep {
        let mut asleep = Asleep { ended: false };
        tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))).await;
        asleep.ended = true;
    } else {
        // A socket is none that hooks could use, though the API still has it.
        return Err(HookError::Handler);
    }
    Ok(())
}

/// Makes a hook's request. What speaks HTTP where HTTPS was asked for is asked so again, as it was before hooks knew
/// HTTPS.
async fn request(target: &Target<'_>, get: &HTTPGetAction, limit: Duration) -> Result<(), HttpError> {
    let url = probe::http::url(target, get)?;
    let first = probe::http::get(&url, get, limit, AGENT).await.map(|_| ());
    let is_secure = get.scheme.as_deref().is_some_and(|scheme| scheme.eq_ignore_ascii_case("HTTPS"));
    if !(is_secure && first.as_ref().is_err_and(HttpError::is_plain_answer)) {
        return first;
    }
    let mut plain = HTTPGetAction { scheme: Some("HTTP".to_owned()), ..get.clone() };
    if let Some(headers) = &mut plain.http_headers {
        // What is secret is not sent in the clear.
        headers.retain(|header| !header.name.eq_ignore_ascii_case("authorization"));
    }
    probe::http::get(&probe::http::url(target, &plain)?, &plain, limit, AGENT).await?;
    metrics::get().hook_fallbacks.inc();
    Ok(())
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
