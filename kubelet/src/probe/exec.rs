//! Probe by a command in the container: exit code 0 is success.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::api::core::v1::{Container, ExecAction};

use super::{Finding, Target};
use crate::{
    env,
    runtime::{Runtime, RuntimeError},
};

/// Most output shown in an event.
const MAX_OUTPUT: usize = 10 * 1024;

/// The command with the container's variables put in, as far as their values stand in its spec.
fn expanded(action: &ExecAction, container: &Container) -> Vec<String> {
    let variables: BTreeMap<&str, &str> = container
        .env
        .iter()
        .flatten()
        .map(|v| (v.name.as_str(), v.value.as_deref().unwrap_or_default()))
        .collect();
    let lookup = |name: &str| variables.get(name).map(|value| (*value).to_owned());
    action.command.iter().flatten().map(|part| env::expand(part, &lookup)).collect()
}

/// Runs the command.
pub async fn probe(
    runtime: &Runtime,
    target: &Target<'_>,
    action: &ExecAction,
    timeout: Duration,
) -> Finding {
    let command = expanded(action, target.container);
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn commands_have_variables_whose_values_are_known() {
        let container: Container = serde_json::from_value(json!({"name": "c", "env": [
            {"name": "A", "value": "1"}, {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}]}))
        .unwrap();
        let command = ["$(A)", "x$(A)y", "$(B)", "$(C)", "$$(A)"].map(str::to_owned).to_vec();
        let made = expanded(&ExecAction { command: Some(command) }, &container);
        assert_eq!(made, ["1", "x1y", "", "$(C)", "$(A)"]);
        assert!(expanded(&ExecAction { command: None }, &container).is_empty());
    }
}
