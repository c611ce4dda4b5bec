//! Probe by a command in the container: exit code 0 is success.

use std::time::Duration;

use k8s_openapi::api::core::v1::ExecAction;

use super::{Finding, Target};
use crate::runtime::{Runtime, RuntimeError};

/// Most output shown in an event.
const MAX_OUTPUT: usize = 10 * 1024;

/// Runs the command.
pub async fn probe(
    runtime: &Runtime,
    target: &Target<'_>,
    action: &ExecAction,
    timeout: Duration,
) -> Finding {
    let command = action.command.clone().unwrap_or_default();
    match runtime.exec_sync(target.id, &command, timeout).await {
        Ok(answer) if answer.exit_code == 0 => Finding::Success,
        Ok(answer) => {
            let mut output = answer.stdout.to_vec();
            output.extend_from_slice(&answer.stderr);
            output.truncate(MAX_OUTPUT);
            Finding::Failure(String::from_utf8_lossy(&output).into_owned())
        }
        Err(RuntimeError::Call { code: tonic::Code::DeadlineExceeded, .. }) => Finding::Failure(format!(
            "command timed out: {:?} timed out after {}",
            command.join(" "),
            component_base::goduration::format(timeout)
        )),
        Err(error) => Finding::Unknown(error.to_string()),
    }
}
