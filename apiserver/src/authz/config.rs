//! AuthorizationConfiguration: the chain of authorizers, in a file instead of flags.
//!
//! Contract: apiserver.config.k8s.io/v1.

use std::{path::Path, time::Duration};

use component_base::{
    config::{self, ConfigError},
    goduration,
};
use serde::Deserialize;

use super::{Mode, webhook::Options};

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    authorizers: Vec<One>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct One {
    r#type: String,
    name: String,
    webhook: Option<WebhookFile>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct WebhookFile {
    timeout: String,
    #[serde(rename = "authorizedTTL")]
    authorized_ttl: String,
    #[serde(rename = "unauthorizedTTL")]
    unauthorized_ttl: String,
    cache_authorized_requests: Option<bool>,
    cache_unauthorized_requests: Option<bool>,
    subject_access_review_version: String,
    match_condition_subject_access_review_version: String,
    failure_policy: String,
    connection_info: Connection,
    match_conditions: Vec<Condition>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct Connection {
    r#type: String,
    kube_config_file: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Condition {
    expression: String,
}

/// Why the file is of no use.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It does not decode.
    #[error("authorization configuration")]
    Config(#[from] ConfigError),
    /// It decodes, but makes no sense.
    #[error("authorization configuration: {0}")]
    Invalid(String),
}

/// Reads the chain.
///
/// # Errors
/// When the file does not decode, or makes no sense.
pub fn load(path: &Path) -> Result<Vec<Mode>, LoadError> {
    chain(config::load_content(path, "apiserver.config.k8s.io/v1", "AuthorizationConfiguration")?)
}

fn chain(file: File) -> Result<Vec<Mode>, LoadError> {
    if file.authorizers.is_empty() {
        let why = "authorizers: Required value: at least one authorization mode must be defined";
        return Err(LoadError::Invalid(why.to_owned()));
    }
    let one = |(at, one): (usize, One)| {
        mode(one).map_err(|why| LoadError::Invalid(format!("authorizers[{at}].{why}")))
    };
    file.authorizers.into_iter().enumerate().map(one).collect()
}

fn mode(one: One) -> Result<Mode, String> {
    match (one.r#type.as_str(), one.webhook) {
        ("Webhook", Some(webhook)) => options(one.name, webhook).map(Mode::Webhook),
        ("Webhook", None) => Err("webhook: Required value: required when type=Webhook".to_owned()),
        (_, Some(_)) => Err("webhook: Invalid value: may only be specified when type=Webhook".to_owned()),
        (other, None) => other.parse().map_err(|why: String| format!("type: {why}")),
    }
}

fn options(name: String, file: WebhookFile) -> Result<Options, String> {
    let duration = |field: &str, text: &str, default: u64| match text {
        "" => Ok(Duration::from_secs(default)),
        text => goduration::parse(text).map_err(|error| format!("webhook.{field}: {error}")),
    };
    let kept = |flag: Option<bool>, ttl: Duration| if flag == Some(false) { Duration::ZERO } else { ttl };
    let timeout = duration("timeout", &file.timeout, 0)?;
    if timeout.is_zero() || timeout > Duration::from_secs(30) {
        return Err("webhook.timeout: Invalid value: must be greater than 0 and at most 30s".to_owned());
    }
    let version = match file.subject_access_review_version.as_str() {
        "v1" => "v1",
        "v1beta1" => "v1beta1",
        other => return Err(format!("webhook.subjectAccessReviewVersion: Unsupported value: {other:?}")),
    };
    if !file.match_conditions.is_empty() && file.match_condition_subject_access_review_version != "v1" {
        return Err("webhook.matchConditionSubjectAccessReviewVersion: Unsupported value".to_owned());
    }
    let fails_closed = match file.failure_policy.as_str() {
        "NoOpinion" => false,
        "Deny" => true,
        other => return Err(format!("webhook.failurePolicy: Unsupported value: {other:?}")),
    };
    if file.connection_info.r#type != "KubeConfigFile" {
        return Err("webhook.connectionInfo.type: only KubeConfigFile is supported by this server".to_owned());
    }
    let allowed = duration("authorizedTTL", &file.authorized_ttl, 300)?;
    let denied = duration("unauthorizedTTL", &file.unauthorized_ttl, 30)?;
    Ok(Options {
        name,
        kubeconfig: file.connection_info.kube_config_file.into(),
        version,
        timeout,
        allowed_ttl: kept(file.cache_authorized_requests, allowed),
        denied_ttl: kept(file.cache_unauthorized_requests, denied),
        fails_closed,
        conditions: file.match_conditions.into_iter().map(|condition| condition.expression).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(authorizers: &str) -> Result<Vec<Mode>, String> {
        let file =
            serde_saphyr::from_str(&format!("authorizers: [{authorizers}]")).map_err(|e| e.to_string())?;
        chain(file).map_err(|error| error.to_string())
    }

    #[test]
    fn chains_are_read() {
        let webhook = "{type: Webhook, name: w, webhook: {timeout: 3s, subjectAccessReviewVersion: v1, \
            failurePolicy: Deny, unauthorizedTTL: 5s, cacheAuthorizedRequests: false, \
            matchConditionSubjectAccessReviewVersion: v1, matchConditions: [{expression: 'true'}], \
            connectionInfo: {type: KubeConfigFile, kubeConfigFile: /a}}}";
        let modes = read(&format!("{{type: Node, name: n}}, {webhook}, {{type: RBAC, name: r}}")).unwrap();
        let [Mode::Node, Mode::Webhook(options), Mode::Rbac] = modes.as_slice() else { panic!("{modes:?}") };
        assert!(options.fails_closed && options.allowed_ttl.is_zero() && options.conditions.len() == 1);
        assert_eq!((options.timeout.as_secs(), options.denied_ttl.as_secs()), (3, 5));
        for bad in ["", "{type: Webhook, name: w}", "{type: Strange, name: s}", "{type: Node, webhook: {}}"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
