//! Trust anchors of ClusterTrustBundles as a file: those of one bundle by name, or of all bundles of a signer that labels
//! choose; each anchor once, in a stable order, and nothing beside.
//!
//! Contract: clusterTrustBundle projected volumes (KEP-3257).

use std::collections::BTreeSet;

use component_base::selector::LabelSelector;
use k8s_openapi::api::{certificates::v1beta1::ClusterTrustBundle, core::v1::ClusterTrustBundleProjection};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};

use super::{Context, VolumeError};
use crate::certificate::to_pem;

/// The file's content.
///
/// # Errors
/// When there is no bundle and there has to be one.
pub async fn content(
    context: &Context<'_>,
    source: &ClusterTrustBundleProjection,
) -> Result<Vec<u8>, VolumeError> {
    if !context.trust_bundles {
        return Err(VolumeError::TrustBundle("projection is not enabled".to_owned()));
    }
    let optional = source.optional == Some(true);
    if let Some(name) = &source.name {
        return match context.objects.trust_bundle(name).await? {
            Some(bundle) => Ok(anchors([&*bundle])),
            None if optional => Ok(vec![]),
            None => Err(VolumeError::NotFound { resource: "clustertrustbundle", name: name.clone() }),
        };
    }
    let fail = |why: &str| VolumeError::TrustBundle(why.to_owned());
    let signer = source.signer_name.as_deref();
    let signer = signer.ok_or_else(|| fail("projection requires either name or signerName to be set"))?;
    let all = context.objects.trust_bundles(signer).await?;
    let chosen = choose(&all, source).map_err(|error| fail(&error))?;
    if chosen.is_empty() && !optional {
        return Err(fail("combination of signerName and labelSelector matched zero ClusterTrustBundles"));
    }
    Ok(anchors(chosen))
}

/// The bundles of the signer that the labels choose: without a selector none, with an empty one all.
fn choose<'a>(
    all: &'a [ClusterTrustBundle],
    source: &ClusterTrustBundleProjection,
) -> Result<Vec<&'a ClusterTrustBundle>, String> {
    let selector = LabelSelector::from_api(source.label_selector.as_ref()).map_err(|e| e.to_string())?;
    let matches = |bundle: &&ClusterTrustBundle| {
        bundle.spec.signer_name == source.signer_name && selector.matches(&bundle.metadata.labels)
    };
    Ok(all.iter().filter(matches).collect())
}

/// All certificates of the bundles. What comes after something that does not read is left out; the API
/// server takes in no such thing.
fn anchors<'a>(bundles: impl IntoIterator<Item = &'a ClusterTrustBundle>) -> Vec<u8> {
    let mut found: BTreeSet<Vec<u8>> = BTreeSet::new();
    for bundle in bundles {
        let read = CertificateDer::pem_slice_iter(bundle.spec.trust_bundle.as_bytes());
        found.extend(read.map_while(Result::ok).map(|anchor| anchor.to_vec()));
    }
    to_pem(found)
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use serde_json::json;

    use super::*;

    fn bundle(signer: &str, labels: serde_json::Value, texts: &[&[u8]]) -> ClusterTrustBundle {
        let pem = |der: &&[u8]| {
            format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", STANDARD.encode(der))
        };
        let text: String = texts.iter().map(pem).collect();
        serde_json::from_value(json!({
            "metadata": {"name": "b", "labels": labels},
            "spec": {"signerName": signer, "trustBundle": format!("words before\n{text}")},
        }))
        .unwrap()
    }

    #[test]
    fn anchors_come_once_in_order_and_alone() {
        let long = [7; 60];
        let one = bundle("s", json!({}), &[b"bb", b"aa"]);
        let other = bundle("s", json!({}), &[b"aa", &long]);
        let text = String::from_utf8(anchors([&one, &other])).unwrap();
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with("-----")).collect();
        assert_eq!(lines, ["BwcH".repeat(16).as_str(), "BwcHBwcHBwcHBwcH", "YWE=", "YmI="]);
        assert_eq!(text.matches("-----END CERTIFICATE-----\n").count(), 3);
        let again = bundle("s", json!({}), &[]);
        let reread = ClusterTrustBundle {
            spec: k8s_openapi::api::certificates::v1beta1::ClusterTrustBundleSpec {
                trust_bundle: text.clone(),
                ..again.spec.clone()
            },
            ..again
        };
        assert_eq!(anchors([&reread]), text.into_bytes());
        assert!(anchors([]).is_empty());
    }

    #[test]
    fn labels_choose_among_the_signers_bundles() {
        let all = [
            bundle("s", json!({"env": "live"}), &[]),
            bundle("s", json!({"env": "test"}), &[]),
            bundle("other", json!({"env": "live"}), &[]),
        ];
        for (selector, count) in [
            (json!(null), 0),
            (json!({}), 2),
            (json!({"matchLabels": {"env": "live"}}), 1),
            (json!({"matchExpressions": [{"key": "env", "operator": "NotIn", "values": ["test"]}]}), 1),
            (json!({"matchLabels": {"env": "none"}}), 0),
        ] {
            let source = json!({"path": "p", "signerName": "s", "labelSelector": selector});
            let source: ClusterTrustBundleProjection = serde_json::from_value(source).unwrap();
            assert_eq!(choose(&all, &source).unwrap().len(), count, "{selector}");
        }
        let source = json!({"path": "p", "signerName": "s", "labelSelector": {"matchExpressions": [{"key": "a", "operator": "Near"}]}});
        assert!(choose(&all, &serde_json::from_value(source).unwrap()).is_err());
    }
}
