//! Lifecycle hooks: what runs right after a container starts and before it is stopped.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, HTTPGetAction, LifecycleHandler};

use crate::{
    metrics,
    probe::{self, Target, http::HttpError},
    runtime::Runtime,
};

/// What requests of hooks call themselves.
/// The event of a hook that was asked in the clear.
pub const FALLBACK: &str = "LifecycleHTTPFallback";

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

/// Runs a hook to its end; it takes as long as it takes, the caller sets the limit. Answers with what there is to tell of one
/// that was run in another way than was asked for.
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
) -> Result<Option<String>, HookError> {
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
        return Ok(request(&target, get, limit).await?);
    } else if let Some(sleep) = &handler.sleep {
        let mut asleep = Asleep { ended: false };
        tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))).await;
        asleep.ended = true;
    } else {
        // A socket is none that hooks could use, though the API still has it.
        return Err(HookError::Handler);
    }
    Ok(None)
}

/// Makes a hook's request. What speaks HTTP where HTTPS was asked for is asked so again, as it was before hooks knew
/// HTTPS.
async fn request(
    target: &Target<'_>,
    get: &HTTPGetAction,
    limit: Duration,
) -> Result<Option<String>, HttpError> {
    let url = probe::http::url(target, get)?;
    let first = probe::http::get(&url, get, limit, AGENT).await.map(|_| None);
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
    let (host, port) = (url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or(0));
    Ok(Some(format!(
        "request to HTTPS lifecycle hook {host}:{port} got HTTP response, retry with HTTP succeeded"
    )))
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

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// Serves plain HTTP as often as it is asked, and answers with this code.
    async fn serve(code: u16) -> u16 {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let tasks = component_base::task::Tasks::new();
        tasks.spawn("server", async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut read = [0; 1024];
                let size = stream.read(&mut read).await.unwrap();
                let asked = String::from_utf8_lossy(&read[..size]).to_lowercase();
                let code = if asked.contains("authorization") { 401 } else { code };
                let answer = format!("HTTP/1.1 {code} X\r\nContent-Length: 0\r\n\r\n");
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        // It serves as long as the test goes on.
        std::mem::forget(tasks);
        port
    }

    #[tokio::test]
    async fn hooks_take_any_answer_and_what_speaks_in_the_clear() {
        let container = Container::default();
        let target = Target { id: "1", ip: "127.0.0.1", container: &container };
        let ask = async |port: u16, scheme: &str| {
            let port = IntOrString::Int(port.into());
            let get = HTTPGetAction { port, scheme: Some(scheme.to_owned()), ..HTTPGetAction::default() };
            request(&target, &get, Duration::from_secs(60)).await
        };
        for code in [200, 500] {
            assert_eq!(ask(serve(code).await, "HTTP").await.unwrap(), None, "{code}");
        }
        let port = serve(200).await;
        let told = ask(port, "HTTPS").await.unwrap().unwrap();
        let expected = "got HTTP response, retry with HTTP succeeded";
        assert_eq!(told, format!("request to HTTPS lifecycle hook 127.0.0.1:{port} {expected}"));
        // Nobody serves there.
        assert!(ask(1, "HTTPS").await.is_err());
    }
}
