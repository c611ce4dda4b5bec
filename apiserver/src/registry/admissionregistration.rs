//! Resources of the group admissionregistration.k8s.io, one file each, one line each in [`resources`].

use std::sync::Arc;

use component_base::features::{Gate, Gates};
use serde_json::Value;

use crate::{
    field::{Error, ErrorList, Path},
    object::Object,
    registry::{
        Column, Resource, STATIC_SUFFIX,
        kit::{Cell, Plain, Rules, at::At, column, selector_text},
    },
};

mod defaults;
mod mutatingadmissionpolicies;
mod mutatingadmissionpolicybindings;
mod mutatingwebhookconfigurations;
mod validatingadmissionpolicies;
mod validatingadmissionpolicybindings;
mod validatingwebhookconfigurations;
mod validation;

/// All of them.
pub(super) fn resources() -> Vec<Resource> {
    vec![
        mutatingadmissionpolicies::resource(),
        mutatingadmissionpolicybindings::resource(),
        mutatingwebhookconfigurations::resource(),
        validatingadmissionpolicies::resource(),
        validatingadmissionpolicybindings::resource(),
        validatingwebhookconfigurations::resource(),
    ]
}

/// What configures webhooks of either kind, with its own defaults.
fn webhooks(
    kind: &'static str,
    plural: &'static str,
    singular: &'static str,
    default: fn(&mut Object),
) -> Resource {
    Resource {
        categories: &["api-extensions"],
        namespaced: false,
        columns: const {
            &[column("Name", "string").name(), column("Webhooks", "integer"), column("Age", "string")]
        },
        strategy: Arc::new(Rules {
            default,
            unconditional_update: false,
            validate_gated: reserved,
            warnings,
            validate_new: validation::new_webhooks,
            validate_change: validation::changed_webhooks,
            ..Rules::new(Plain {
                status: false,
                generation: true,
                cells: &[Cell::Name, Cell::Count(&["/webhooks"]), Cell::Age],
            })
        }),
        ..Resource::of("admissionregistration.k8s.io", kind, plural, singular)
    }
}

/// Names of what is configured by files are not for objects of the API.
fn reserved(new: &Object, old: Option<&Object>, gates: Gates, errors: &mut ErrorList) {
    if old.is_none() && gates.has(Gate::ManifestBasedAdmissionControlConfig) && is_reserved(new) {
        errors.push(Error::invalid(&Path::new("metadata").child("name"), new.name(), of_files()));
    }
}

/// The same as a warning, where no file configures anything yet.
fn warnings(new: &Object, old: Option<&Object>) -> Vec<String> {
    let told = old.is_none() && is_reserved(new);
    told.then(|| format!("metadata.name: {}", of_files())).into_iter().collect()
}

fn is_reserved(object: &Object) -> bool {
    object.name().ends_with(STATIC_SUFFIX)
}

fn of_files() -> String {
    format!(
        "names ending with {STATIC_SUFFIX:?} are reserved for static manifest-based configurations and cannot be managed via the API"
    )
}

/// Columns of bindings of policies.
const BINDING_COLUMNS: &[Column] = &[
    column("Name", "string").name(),
    column("PolicyName", "string"),
    column("ParamRef", "string"),
    column("Age", "string"),
];
const BINDING_CELLS: &[Cell] =
    &[Cell::Name, Cell::Field("/spec/policyName", ""), Cell::With(param_ref), Cell::Age];

/// What a policy takes parameters from.
fn param_kind(policy: &Object) -> Value {
    let kind = At::spec(policy).get("paramKind");
    match kind.is_set() {
        true => format!("{}/{}", kind.text_of("apiVersion"), kind.text_of("kind")).into(),
        false => "<unset>".into(),
    }
}

/// Which parameters a binding brings: one by name, wherever it is, or all that a selector selects.
fn param_ref(binding: &Object) -> Value {
    let params = At::spec(binding).get("paramRef");
    let (namespace, name) = (params.text_of("namespace"), params.text_of("name"));
    match (namespace, name) {
        ("", "") if params.has("selector") => {
            selector_text::of(params.get("selector").value()).unwrap_or_default().into()
        }
        (_, "") => "<unset>".into(),
        ("", name) => format!("*/{name}").into(),
        (namespace, name) => format!("{namespace}/{name}").into(),
    }
}
