//! AuthenticationConfiguration: issuers of tokens and who may be anonymous, in a file instead of flags.
//!
//! Contract: apiserver.config.k8s.io/v1.

use std::path::Path;

use component_base::config::{self, ConfigError};
use serde::Deserialize;

use super::oidc::{Mapping, Options};
use crate::egress::Network;

const GROUP_VERSION: &str = "apiserver.config.k8s.io/v1";
const KIND: &str = "AuthenticationConfiguration";

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    jwt: Vec<Jwt>,
    anonymous: Option<AnonymousFile>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct AnonymousFile {
    enabled: bool,
    conditions: Vec<Condition>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Condition {
    path: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct Jwt {
    issuer: IssuerFile,
    claim_validation_rules: Vec<ClaimRule>,
    claim_mappings: Mappings,
    user_validation_rules: Vec<Rule>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct IssuerFile {
    url: String,
    #[serde(rename = "discoveryURL")]
    discovery_url: String,
    certificate_authority: String,
    audiences: Vec<String>,
    audience_match_policy: String,
    egress_selector_type: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct ClaimRule {
    claim: String,
    required_value: String,
    expression: String,
    message: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Rule {
    expression: String,
    message: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Mappings {
    username: MappingFile,
    groups: MappingFile,
    uid: MappingFile,
    extra: Vec<Extra>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct MappingFile {
    claim: String,
    prefix: Option<String>,
    expression: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct Extra {
    key: String,
    value_expression: String,
}

/// What the file says.
#[derive(Clone, Debug, Default)]
pub struct Configuration {
    /// Issuers of tokens.
    pub issuers: Vec<Options>,
    /// Who may be anonymous; the flag decides where the file is silent.
    pub anonymous: Option<Anonymous>,
}

/// Which requests without credentials are taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Anonymous {
    /// Whether any is.
    pub enabled: bool,
    /// Paths for which they are; all when empty.
    pub paths: Vec<String>,
}

impl Anonymous {
    /// Whether a request of this path is taken.
    pub fn allows(&self, path: &str) -> bool {
        self.enabled && (self.paths.is_empty() || self.paths.iter().any(|allowed| allowed == path))
    }
}

/// Reads the file.
///
/// # Errors
/// When it does not decode, or makes no sense.
pub fn load(path: &Path) -> Result<Configuration, LoadError> {
    settle(config::load_content(path, GROUP_VERSION, KIND)?)
}

fn settle(file: File) -> Result<Configuration, LoadError> {
    let mut issuers = Vec::new();
    for (at, jwt) in file.jwt.into_iter().enumerate() {
        issuers.push(issuer(jwt).map_err(|why| LoadError::Invalid(format!("jwt[{at}].{why}")))?);
    }
    let anonymous = file.anonymous.map(|file| Anonymous {
        enabled: file.enabled,
        paths: file.conditions.into_iter().map(|condition| condition.path).collect(),
    });
    Ok(Configuration { issuers, anonymous })
}

/// Why the file is of no use.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It does not decode.
    #[error("authentication configuration")]
    Config(#[from] ConfigError),
    /// It decodes, but makes no sense.
    #[error("authentication configuration: {0}")]
    Invalid(String),
}

fn issuer(jwt: Jwt) -> Result<Options, String> {
    let Jwt { issuer, claim_validation_rules, claim_mappings, user_validation_rules } = jwt;
    if !issuer.url.starts_with("https://") {
        return Err(format!("issuer.url: Invalid value: {:?}: URL scheme must be https", issuer.url));
    }
    if issuer.audiences.is_empty() {
        return Err(
            "issuer.audiences: Required value: at least one jwt.issuer.audiences is required".to_owned()
        );
    }
    if !matches!(issuer.audience_match_policy.as_str(), "" | "MatchAny") {
        return Err(
            "issuer.audienceMatchPolicy: Unsupported value: supported values: \"MatchAny\"".to_owned()
        );
    }
    let network = match issuer.egress_selector_type.as_str() {
        "" => None,
        "controlplane" => Some(Network::ControlPlane),
        "cluster" => Some(Network::Cluster),
        other => {
            return Err(format!(
                "issuer.egressSelectorType: Invalid value: {other:?}: egress selector must be either controlplane or cluster"
            ));
        }
    };
    let mut options = Options {
        network,
        url: issuer.url,
        discovery_url: issuer.discovery_url,
        ca: issuer.certificate_authority.into_bytes(),
        audiences: issuer.audiences,
        algorithms: ["RS256", "RS384", "RS512", "ES256", "ES384", "PS256", "PS384", "PS512"]
            .map(str::to_owned)
            .into(),
        username: mapping("username", claim_mappings.username, true)?,
        groups: mapping("groups", claim_mappings.groups, true)?,
        uid: mapping("uid", claim_mappings.uid, false)?,
        extra: claim_mappings.extra.into_iter().map(|extra| (extra.key, extra.value_expression)).collect(),
        user_rules: user_validation_rules.into_iter().map(|rule| (rule.expression, rule.message)).collect(),
        ..Options::default()
    };
    if options.username == Mapping::Nothing {
        return Err("claimMappings.username: Required value: claim or expression is required".to_owned());
    }
    for rule in claim_validation_rules {
        match (rule.claim.is_empty(), rule.expression.is_empty()) {
            (false, true) => options.required.push((rule.claim, rule.required_value)),
            (true, false) => options.claim_rules.push((rule.expression, rule.message)),
            _ => {
                return Err(
                    "claimValidationRules: Invalid value: either claim or expression is required".to_owned()
                );
            }
        }
    }
    Ok(options)
}

fn mapping(name: &str, file: MappingFile, needs_prefix: bool) -> Result<Mapping, String> {
    match (file.claim.is_empty(), file.expression.is_empty(), file.prefix) {
        (true, true, _) => Ok(Mapping::Nothing),
        (false, false, _) => {
            Err(format!("claimMappings.{name}: Invalid value: claim and expression can't both be set"))
        }
        (true, false, _) => Ok(Mapping::Expression(file.expression)),
        (false, true, None) if needs_prefix => {
            Err(format!("claimMappings.{name}.prefix: Required value: prefix is required when claim is set"))
        }
        (false, true, prefix) => Ok(Mapping::Claim { claim: file.claim, prefix: prefix.unwrap_or_default() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(jwt: &str, rest: &str) -> Result<Configuration, String> {
        let text = format!("apiVersion: {GROUP_VERSION}\nkind: {KIND}\njwt: [{jwt}]\n{rest}");
        settle(config::parse_content(&text, "test", GROUP_VERSION, KIND).map_err(|e| e.to_string())?)
            .map_err(|e| e.to_string())
    }

    #[test]
    fn issuers_and_anonymous_paths_are_read() {
        let issuer = "issuer: {url: 'https://a', audiences: [x]}";
        let good = format!(
            "{{{issuer}, claimMappings: {{username: {{claim: sub, prefix: ''}}, uid: {{claim: id}}}}}}"
        );
        let anonymous = "anonymous: {enabled: true, conditions: [{path: /livez}]}";
        let config = read(&good, anonymous).unwrap();
        assert_eq!(
            config.issuers[0].username,
            Mapping::Claim { claim: "sub".to_owned(), prefix: String::new() }
        );
        let anonymous = config.anonymous.unwrap();
        assert!(anonymous.allows("/livez") && !anonymous.allows("/api"));
        for bad in [
            "{}",
            "{issuer: {url: 'http://a', audiences: [x]}, claimMappings: {username: {claim: sub, prefix: ''}}}",
            "{issuer: {url: 'https://a', audiences: [x]}, claimMappings: {username: {claim: sub}}}",
            "{issuer: {url: 'https://a', audiences: [x]}}",
            "{issuer: {url: 'https://a', audiences: [x], egressSelectorType: etcd}, claimMappings: {username: {claim: sub, prefix: ''}}}",
            "{unknown: 1}",
        ] {
            assert!(read(bad, "").is_err(), "{bad}");
        }
    }
}
