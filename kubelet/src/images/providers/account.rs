//! The service account of the pod that needs an image, for providers that ask for its token.
//!
//! Contract: KEP-4412, `tokenAttributes`: the token is for one audience and bound to the pod; what a provider answers is kept
//! for the account, or for the token alone; annotations that are required have to be there.

use std::{collections::BTreeMap, fmt};

use component_base::selector::{Operator, Requirement};
use k8s_openapi::api::core::v1::Pod;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::{
    api::ObjectSource,
    images::verified::{PullAccount, hex},
    pod,
};

/// How long a token is asked to be good for, in seconds: the API's default.
const LIFE: i64 = 3600;

/// Who needs an image.
#[derive(Clone, Copy)]
pub struct Asker<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// Where its service account comes from.
    pub objects: &'a dyn ObjectSource,
}

impl Asker<'_> {
    /// The pod, for logs.
    pub(super) fn display(&self) -> String {
        pod::display(self.pod)
    }
}

impl fmt::Debug for Asker<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("Asker").field(&pod::uid(self.pod)).finish()
    }
}

/// What a provider asks for of service accounts.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct TokenAttributes {
    service_account_token_audience: String,
    cache_type: String,
    require_service_account: bool,
    #[serde(default)]
    required_service_account_annotation_keys: Vec<String>,
    #[serde(default)]
    optional_service_account_annotation_keys: Vec<String>,
}

/// What is found of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// The provider is not to be asked.
    NotWanted,
    /// It has no account, and needs none.
    None,
    /// Its account.
    Account(Account),
}

/// A pod's service account, as a provider gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Whose credentials those that come of it are.
    pub whose: PullAccount,
    /// The token.
    pub token: String,
    /// The annotations that were asked for.
    pub annotations: BTreeMap<String, String>,
    /// What credentials are kept by.
    pub key: String,
    /// They are kept for all pods of the account.
    pub is_shared: bool,
}

impl TokenAttributes {
    /// Says what is wrong with them.
    ///
    /// # Errors
    /// The first thing that is.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.service_account_token_audience.is_empty() {
            return Err("serviceAccountTokenAudience: Required value".to_owned());
        }
        if !matches!(self.cache_type.as_str(), "ServiceAccount" | "Token") {
            return Err(format!(
                "cacheType: Unsupported value: {:?}: supported values: \"ServiceAccount\", \"Token\"",
                self.cache_type
            ));
        }
        let (required, optional) =
            (&self.required_service_account_annotation_keys, &self.optional_service_account_annotation_keys);
        if !self.require_service_account && !required.is_empty() {
            return Err("requiredServiceAccountAnnotationKeys: Forbidden: requireServiceAccount cannot be false when \
                        requiredServiceAccountAnnotationKeys is set"
                .to_owned());
        }
        for (list, name) in [
            (required, "requiredServiceAccountAnnotationKeys"),
            (optional, "optionalServiceAccountAnnotationKeys"),
        ] {
            for (i, key) in list.iter().enumerate() {
                // Keys of annotations are those of labels.
                Requirement::new(&key.to_lowercase(), Operator::Exists, vec![])
                    .map_err(|error| format!("{name}: Invalid value: {key:?}: {error}"))?;
                if list[..i].contains(key) {
                    return Err(format!("{name}: Duplicate value: {key:?}"));
                }
            }
        }
        match required.iter().find(|key| optional.contains(key)) {
            Some(key) => Err(format!("annotation keys cannot be both required and optional: {key:?}")),
            None => Ok(()),
        }
    }

    /// The account of the pod, with a token for the provider.
    ///
    /// # Errors
    /// Why it cannot be had.
    pub(super) async fn of(&self, asker: Asker<'_>) -> Result<Found, String> {
        let name = pod::spec(asker.pod).service_account_name.as_deref().unwrap_or_default();
        if name.is_empty() {
            return Ok(if self.require_service_account { Found::NotWanted } else { Found::None });
        }
        let namespace = pod::namespace(asker.pod);
        let account = asker.objects.service_account(namespace, name).await;
        let account = account
            .map_err(|error| format!("failed to get service account: {error}"))?
            .ok_or_else(|| format!("failed to get service account: serviceaccounts {name:?} not found"))?;
        let known = account.metadata.annotations.clone().unwrap_or_default();
        let Some(annotations) = self.annotations(&known) else {
            tracing::debug!(
                pod = asker.display(),
                account = name,
                "an annotation that is required is missing"
            );
            return Ok(Found::NotWanted);
        };
        let audience = Some(self.service_account_token_audience.as_str());
        let token = asker.objects.token(asker.pod, audience, LIFE).await;
        let token = token.map_err(|error| format!("failed to get service account token: {error}"))?;
        let uid = account.metadata.uid.clone().unwrap_or_default();
        let whose = PullAccount { uid, namespace: namespace.to_owned(), name: name.to_owned() };
        let is_shared = self.cache_type == "ServiceAccount";
        let key = key(&whose, &annotations, (!is_shared).then_some(token.as_str()));
        Ok(Found::Account(Account { whose, token, annotations, key, is_shared }))
    }

    /// Those that are asked for; nothing where one that is required is not there.
    fn annotations(&self, known: &BTreeMap<String, String>) -> Option<BTreeMap<String, String>> {
        let pair = |key: &String| known.get(key).map(|value| (key.clone(), value.clone()));
        let required = self.required_service_account_annotation_keys.iter().map(pair);
        let mut all = required.collect::<Option<BTreeMap<_, _>>>()?;
        all.extend(self.optional_service_account_annotation_keys.iter().filter_map(pair));
        Some(all)
    }
}

/// What credentials are kept by: each part with its length, so that no two are the same by chance.
fn key(whose: &PullAccount, annotations: &BTreeMap<String, String>, token: Option<&str>) -> String {
    let sum = token.map(|token| hex(&Sha256::digest(token)));
    let own = [&whose.namespace, &whose.name, &whose.uid];
    let pairs = annotations.iter().flat_map(|(key, value)| [key, value]);
    let parts = own.into_iter().chain(pairs).chain(sum.iter());
    parts.map(|part| format!("{}:{part}", part.len())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(more: &str) -> Result<(), String> {
        let base = "serviceAccountTokenAudience: a, cacheType: Token, requireServiceAccount: true";
        let mut all: serde_json::Map<String, serde_json::Value> =
            serde_saphyr::from_str(&format!("{{{base}}}")).unwrap();
        all.extend(serde_saphyr::from_str::<serde_json::Map<_, _>>(&format!("{{{more}}}")).unwrap());
        serde_json::from_value::<TokenAttributes>(all.into()).map_err(|e| e.to_string())?.check()
    }

    #[test]
    fn what_is_asked_for_makes_sense() {
        assert_eq!(with(""), Ok(()));
        assert_eq!(
            with("requiredServiceAccountAnnotationKeys: [a.io/B], optionalServiceAccountAnnotationKeys: [c]"),
            Ok(())
        );
        for (more, part) in [
            ("serviceAccountTokenAudience: ''", "serviceAccountTokenAudience: Required"),
            ("cacheType: Pod", "Unsupported value: \"Pod\""),
            ("requireServiceAccount: false, requiredServiceAccountAnnotationKeys: [a]", "cannot be false"),
            ("requiredServiceAccountAnnotationKeys: [a, a]", "Duplicate value: \"a\""),
            ("optionalServiceAccountAnnotationKeys: ['-']", "Invalid value: \"-\""),
            (
                "requiredServiceAccountAnnotationKeys: [a], optionalServiceAccountAnnotationKeys: [a]",
                "both required and optional",
            ),
            ("requireServiceAccount: null", "null"),
        ] {
            let told = with(more).unwrap_err();
            assert!(told.contains(part), "{more}: {told}");
        }
    }

    #[test]
    fn keys_differ_by_every_part() {
        let whose = |name: &str| PullAccount { namespace: "n".into(), name: name.into(), uid: "u".into() };
        let one = BTreeMap::from([("a".to_owned(), "bc".to_owned())]);
        let other = BTreeMap::from([("ab".to_owned(), "c".to_owned())]);
        let all = [
            key(&whose("x"), &one, None),
            key(&whose("y"), &one, None),
            key(&whose("x"), &other, None),
            key(&whose("x"), &one, Some("t")),
            key(&whose("x"), &one, Some("s")),
        ];
        for (i, key) in all.iter().enumerate() {
            assert!(!all[..i].contains(key), "{key}");
            assert!(!key.contains(":t") && !key.contains(":s"), "the token itself is not kept");
        }
    }
}
