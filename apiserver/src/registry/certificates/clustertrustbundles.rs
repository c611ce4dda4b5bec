//! `clustertrustbundles` of certificates.k8s.io.

use std::sync::Arc;

use component_base::features::Gate;

use super::pem;
use crate::{
    field::{Error, ErrorList, Path},
    object::Object,
    registry::{
        Column, Resource, SelectableField,
        kit::{Cell, Plain, Rules, at::At, column, format, path_segment},
        pod_spec::check_signer,
    },
};

const COLUMNS: &[Column] = &[column("Name", "string").name(), column("SignerName", "string")];
const CELLS: &[Cell] = &[Cell::Name, Cell::Field("/spec/signerName", "<none>")];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        versions: &["v1beta1", "v1alpha1"],
        storage_version: "v1beta1",
        namespaced: false,
        selectable: const { &[SelectableField::at("spec.signerName", "/spec/signerName")] },
        columns: COLUMNS,
        gate: Some(Gate::ClusterTrustBundle),
        strategy: Arc::new(Rules {
            // A name follows from the signer, which only the whole object tells.
            name: path_segment,
            validate_new: |bundle, errors| check(bundle, true, errors),
            validate_change,
            unconditional_update: false,
            ..Rules::new(Plain { status: false, generation: false, cells: CELLS })
        }),
        ..Resource::of(
            "certificates.k8s.io",
            "ClusterTrustBundle",
            "clustertrustbundles",
            "clustertrustbundle",
        )
    }
}

const MAX_BUNDLE: usize = 1024 * 1024;

/// A bundle is called after its signer, if it has one; `parse` when its anchors are new.
fn check(bundle: &Object, parse: bool, errors: &mut ErrorList) {
    let spec = At::spec(bundle);
    let signer = spec.get("signerName");
    let name = bundle.name();
    let wrong = if signer.is_empty() {
        match name.contains(':') {
            true => vec!["ClusterTrustBundle without signer name must not have \":\" in its name".to_owned()],
            false => format::dns_subdomain(name),
        }
    } else {
        let prefix = format!("{}:", signer.text().replace('/', ":"));
        match name.strip_prefix(&prefix) {
            Some(rest) => format::dns_subdomain(rest),
            None => {
                let signer = signer.text();
                vec![format!("ClusterTrustBundle for signerName {signer} must be named with prefix {prefix}")]
            }
        }
    };
    let path = Path::new("metadata").child("name");
    wrong.into_iter().for_each(|detail| errors.push(Error::invalid(&path, name, detail)));
    if !signer.is_empty() {
        check_signer(&signer, errors);
    }
    if parse {
        check_anchors(&spec.get("trustBundle"), errors);
    }
}

/// Trust anchors: certificates of authorities, each once.
fn check_anchors(anchors: &At<'_>, errors: &mut ErrorList) {
    if anchors.text().len() > MAX_BUNDLE {
        return errors.push(Error::too_long(anchors.path(), MAX_BUNDLE));
    }
    let mut found: Vec<(Vec<u8>, Vec<usize>)> = Vec::new();
    let mut wrong = Vec::new();
    for (i, pem) in pem::blocks(anchors.text()).into_iter().enumerate() {
        if pem.label != "CERTIFICATE" {
            wrong.push(format!("entry {i} has bad block type: {}", pem.label));
            continue;
        }
        if pem.has_headers {
            wrong.push(format!("entry {i} has PEM block headers"));
            continue;
        }
        let Ok((_, certificate)) = x509_parser::parse_x509_certificate(&pem.contents) else {
            wrong.push(format!("entry {i} does not parse as X.509"));
            continue;
        };
        if !certificate.is_ca() {
            wrong.push(format!("entry {i} does not have the CA bit set"));
            continue;
        }
        match found.iter_mut().find(|(der, _)| *der == pem.contents) {
            Some((_, entries)) => entries.push(i),
            None => found.push((pem.contents.clone(), vec![i])),
        }
    }
    if wrong.is_empty() && found.is_empty() {
        wrong.push("at least one trust anchor must be provided".to_owned());
    }
    if wrong.is_empty() {
        for (_, entries) in found.iter().filter(|(_, entries)| entries.len() > 1) {
            let all: Vec<String> = entries.iter().map(usize::to_string).collect();
            wrong.push(format!("duplicate trust anchor (indices [{}])", all.join(" ")));
        }
    }
    wrong.into_iter().for_each(|detail| anchors.invalid_as(errors, "<value omitted>", detail));
}

fn validate_change(new: &Object, old: &Object, errors: &mut ErrorList) {
    let (spec, was) = (At::spec(new), At::spec(old));
    check(new, spec.text_of("trustBundle") != was.text_of("trustBundle"), errors);
    spec.get("signerName").check_unchanged(&was.get("signerName"), errors);
}
