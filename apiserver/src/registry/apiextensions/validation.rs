//! What is wrong with definitions of custom resources.
//!
//! What all versions share (schema, subresources, columns, selectable fields) is told of once, at the places
//! definitions had for it before versions did: that is where clients have always found it. An update is not held
//! against rules that the stored definition already breaks.
//!
//! ```text
//! definition → here (names, versions, conversion)
//!            → document (one schema as it was sent) → structural, defaults, rules
//! ```
//! Contract: upstream's `apis/apiextensions/validation`, whose words the errors have.

use std::sync::LazyLock;

use base64::{Engine, prelude::BASE64_STANDARD};
use regex::Regex;
use serde_json::{Map, Value, json};

use crate::{
    apiextensions::{Schema, conditions, fieldpath, formats, structural},
    field::{Error, ErrorList, Path},
    object::Object,
    registry::kit::{at::At, format, webhook_client},
    webhook,
};

mod defaults;
mod document;
mod rules;

/// Most selectable fields of a version.
const MAX_SELECTABLE: usize = 8;
/// Longest warning of a deprecated version.
const MAX_WARNING: usize = 256;
/// Forms of a conversion review this server speaks.
const REVIEWS: [&str; 2] = ["v1", "v1beta1"];
/// Types of printer columns.
const COLUMN_TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
/// Formats of printer columns.
const COLUMN_FORMATS: [&str; 8] =
    ["byte", "date", "date-time", "double", "float", "int32", "int64", "password"];
const SCHEMA: &str = "openAPIV3Schema";
/// Characters that are not shown: of control, of form, of private use, and blanks but the plain one.
#[expect(clippy::expect_used, reason = "the pattern is a constant that compiles")]
static UNPRINTABLE: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"[[\p{C}\p{Z}]--[ ]]").expect("the pattern compiles"));
/// Annotation by which groups of the project are used with consent.
const APPROVED: &str = "api-approved.kubernetes.io";

/// Which rules hold: a definition that was stored breaking one may go on breaking it.
#[derive(Clone, Copy)]
struct Rules {
    /// Every version has a schema.
    schemas: bool,
    /// Schemas are structural.
    structural: bool,
    /// Defaults have no unknown fields.
    pruned_defaults: bool,
    /// Members of sets are atomic.
    atomic_sets: bool,
    /// Keys of list members are always there.
    list_keys: bool,
    /// Types are those of OpenAPI.
    types: bool,
    /// Webhooks take a review this server speaks.
    known_review: bool,
    /// Bundles of authorities are readable.
    readable_bundle: bool,
    /// Each rule in CEL has a bounded cost.
    cheap_rules: bool,
}

impl Rules {
    const ALL: Self = Self {
        schemas: true,
        structural: true,
        pruned_defaults: true,
        atomic_sets: true,
        list_keys: true,
        types: true,
        known_review: true,
        // Nothing trusts the bundle of a definition that is not served yet.
        readable_bundle: false,
        cheap_rules: true,
    };

    /// Those that a stored definition keeps.
    fn kept_by(old: &Object) -> Self {
        let schemas: Vec<&Value> = schemas(old).collect();
        let any =
            |is: &dyn Fn(&Value) -> bool| schemas.iter().any(|s| structural::any(s, &mut |node| is(node)));
        let is_structural =
            |s: &&Value| structural::unreadable(s).is_none() && structural::validate(s, "").is_empty();
        let reviews = At::spec(old).get("conversion").get("webhook").get("conversionReviewVersions");
        Self {
            schemas: versions(old).all(|v| v["schema"][SCHEMA].is_object()),
            structural: schemas.iter().all(is_structural),
            pruned_defaults: schemas.iter().filter(|s| is_structural(s)).all(|s| defaults::are_pruned(s)),
            atomic_sets: !any(&|node| document::set_error(node, &Path::root()).is_some()),
            list_keys: !any(&|node| !document::list_key_errors(node, &Path::root()).is_empty()),
            types: !any(&|node| document::is_unknown_type(node)),
            known_review: reviews.is_empty() || reviews.items().any(|v| REVIEWS.contains(&v.text())),
            readable_bundle: conditions::is_true(old, "Established") && bundle_error(old).is_none(),
            cheap_rules: true,
        }
    }
}

/// Errors of a new definition.
pub(super) fn create(obj: &Object) -> ErrorList {
    let mut errors = ErrorList::new();
    let (plural, group) = (At::spec(obj).get("names").text_of("plural"), At::spec(obj).text_of("group"));
    if obj.name() != format!("{plural}.{group}") {
        let path = Path::new("metadata").child("name");
        errors.push(Error::invalid(&path, obj.name(), "must be spec.names.plural+\".\"+spec.group"));
    }
    spec(obj, None, Rules::ALL, &mut errors);
    status(obj, &mut errors);
    stored_versions(obj, &mut errors);
    consent(obj, None, &mut errors);
    open_fields(obj, None, &mut errors);
    errors
}

/// Errors of a changed definition.
pub(super) fn update(new: &Object, old: &Object) -> ErrorList {
    let mut errors = ErrorList::new();
    spec(new, Some(old), Rules::kept_by(old), &mut errors);
    unchanged(new, old, &mut errors);
    status(new, &mut errors);
    stored_versions(new, &mut errors);
    consent(new, Some(old), &mut errors);
    open_fields(new, Some(old), &mut errors);
    errors
}

/// Errors of a changed status.
pub(super) fn update_status(new: &Object) -> ErrorList {
    let mut errors = ErrorList::new();
    status(new, &mut errors);
    errors
}

/// Warnings of a definition: formats that are not checked, where it did not have them before.
pub(super) fn warnings(new: &Object, old: Option<&Object>) -> Vec<String> {
    let known = old.map(unknown_formats).unwrap_or_default();
    let said = unknown_formats(new).into_iter().filter(|format| !known.contains(format));
    said.map(|format| format!("unrecognized format {format:?}")).collect()
}

fn unknown_formats(definition: &Object) -> Vec<String> {
    let shared = Shared::of(definition);
    let mut out = Vec::new();
    for document in schemas(definition).take(if shared.schema { 1 } else { usize::MAX }) {
        structural::any(document, &mut |node| {
            let (format, kind) = (node["format"].as_str().unwrap_or_default(), node["type"].as_str());
            if !format.is_empty() && !formats::is_known(format, kind.unwrap_or_default()) {
                out.push(format.to_owned());
            }
            false
        });
    }
    out
}

fn versions(definition: &Object) -> impl Iterator<Item = &Value> {
    definition.pointer("/spec/versions").and_then(Value::as_array).into_iter().flatten()
}

fn schemas(definition: &Object) -> impl Iterator<Item = &Value> {
    versions(definition).map(|v| &v["schema"][SCHEMA]).filter(|schema| schema.is_object())
}

/// Whether a version of a stored definition has this very schema.
fn is_kept(document: &At<'_>, old: Option<&Object>, version: &str) -> bool {
    let same = |v: &Value| v["name"] == version && v["schema"][SCHEMA] == *document.value();
    old.is_some_and(|old| versions(old).any(same))
}

/// What is the same in all versions.
struct Shared {
    schema: bool,
    subresources: bool,
    columns: bool,
    selectable: bool,
}

impl Shared {
    fn of(definition: &Object) -> Self {
        let same = |name: &str| {
            let mut all = versions(definition).map(|version| match &version[name] {
                Value::Array(list) if list.is_empty() => &Value::Null,
                other => other,
            });
            let first = all.next();
            all.all(|other| Some(other) == first)
        };
        Self {
            schema: same("schema"),
            subresources: same("subresources"),
            columns: same("additionalPrinterColumns"),
            selectable: same("selectableFields"),
        }
    }
}

fn has_status(version: &Value) -> bool {
    version["subresources"]["status"].is_object()
}

fn spec(obj: &Object, old: Option<&Object>, rules: Rules, errors: &mut ErrorList) {
    let spec = At::spec(obj);
    let group = spec.get("group");
    if group.check_required(errors) {
        let wrong = format::dns_subdomain(group.text());
        if !wrong.is_empty() {
            group.invalid(errors, wrong.join(","));
        } else if !group.text().contains('.') {
            group.invalid(errors, "should be a domain with at least one dot");
        }
    }
    spec.get("scope").check_one_of(errors, &["Cluster", "Namespaced"]);
    let preserve = spec.get("preserveUnknownFields");
    let closed = !preserve.is_true();
    let said = |is: &dyn Fn(&Value) -> bool| schemas(obj).any(|s| structural::any(s, &mut |node| is(node)));
    let defaulted = said(&|node| !node["default"].is_null());
    let rules = Rules {
        structural: rules.structural || closed || defaulted || said(&document::has_extensions),
        ..rules
    };
    schemas_there(&spec, rules, closed, errors);
    if defaulted && preserve.is_true() {
        preserve.invalid_as(errors, true, "must be false in order to use defaults in the schema");
    }
    let shared = Shared::of(obj);
    each_version(&spec, &shared, old, rules, errors);
    let list: Vec<&Value> = versions(obj).collect();
    let names: Vec<&str> = list.iter().filter_map(|v| v["name"].as_str()).collect();
    if (1..names.len()).any(|at| names[..at].contains(&names[at])) {
        spec.get("versions").invalid(errors, "must contain unique version names");
    }
    if list.iter().filter(|v| v["storage"] == true).count() != 1 {
        spec.get("versions").invalid(errors, "must have exactly one version marked as storage version");
    }
    // The first version is that of the definition, too, as it was when there was only one.
    if let Some(first) = names.first().filter(|name| !name.is_empty()) {
        let wrong = format::dns_1035_label(first);
        if !wrong.is_empty() {
            errors.push(Error::invalid(&spec.path().child("version"), *first, wrong.join(",")));
        }
    }
    for name in ["plural", "singular", "kind", "listKind"] {
        spec.get("names").get(name).check_required(errors);
    }
    names_of(&spec.get("names"), errors);
    all_versions(&spec, &shared, old, rules, errors);
    if spec.get("conversion").text_of("strategy") != "None" && preserve.is_true() {
        let strategy = spec.get("conversion").get("strategy");
        strategy.invalid(errors, "must be None if spec.preserveUnknownFields is true");
    }
    conversion(&spec.get("conversion"), rules, errors);
}

fn schemas_there(spec: &At<'_>, rules: Rules, closed: bool, errors: &mut ErrorList) {
    for version in spec.get("versions").items() {
        let schema = version.get("schema").get(SCHEMA);
        if schema.is_set() {
            continue;
        }
        if rules.schemas {
            schema.required(errors, "");
        } else if closed && version.get("served").is_true() {
            schema.required(errors, "because otherwise all fields are pruned");
        }
    }
}

/// What versions say each by itself.
fn each_version(spec: &At<'_>, shared: &Shared, old: Option<&Object>, rules: Rules, errors: &mut ErrorList) {
    for version in spec.get("versions").items() {
        let name = version.get("name");
        let wrong = format::dns_1035_label(name.text());
        if !wrong.is_empty() {
            name.invalid_as(errors, name.text(), wrong.join(","));
        }
        deprecation(&version, errors);
        if !shared.schema {
            let document = version.get("schema").get(SCHEMA);
            let rules = Rules { cheap_rules: !is_kept(&document, old, name.text()), ..rules };
            document::check(&document, has_status(version.value()), rules, errors);
        }
        if !shared.subresources {
            subresources(&version.get("subresources"), errors);
        }
        if !shared.columns {
            columns(&version.get("additionalPrinterColumns"), errors);
        }
        if !shared.selectable {
            let fields = version.get("selectableFields");
            let document = &version.value()["schema"][SCHEMA];
            let many = keeps_many(&fields, old, Some(name.text()));
            selectable(&fields, Some(document).filter(|d| d.is_object()), many, false, errors);
        }
    }
}

/// What all versions share, told of at the definition.
fn all_versions(spec: &At<'_>, shared: &Shared, old: Option<&Object>, rules: Rules, errors: &mut ErrorList) {
    let Some(first) = spec.get("versions").items().next() else { return };
    let at = |name: &'static str, place: &str| first.get(name).named(spec.path().child(place));
    let document = at("schema", "validation").get(SCHEMA);
    if shared.schema {
        let any_status = spec.get("versions").items().any(|v| has_status(v.value()));
        let rules = Rules { cheap_rules: !is_kept(&document, old, first.text_of("name")), ..rules };
        document::check(&document, any_status, rules, errors);
    }
    if shared.subresources {
        subresources(&at("subresources", "subresources"), errors);
    }
    if shared.columns {
        columns(&at("additionalPrinterColumns", "additionalPrinterColumns"), errors);
    }
    if shared.selectable {
        let fields = at("selectableFields", "selectableFields");
        let described = Some(document.value()).filter(|d| shared.schema && d.is_object());
        selectable(&fields, described, keeps_many(&fields, old, None), true, errors);
    }
}

fn deprecation(version: &At<'_>, errors: &mut ErrorList) {
    let warning = version.get("deprecationWarning");
    if !warning.is_set() {
        return;
    }
    if !version.get("deprecated").is_true() {
        return warning.invalid(errors, "can only be set for deprecated versions");
    }
    let text = warning.text();
    if text.len() > MAX_WARNING {
        warning.invalid(errors, format!("must be <= {MAX_WARNING} characters long"));
    }
    if text.is_empty() {
        warning.invalid(errors, "must not be an empty string");
    }
    if let Some(at) = UNPRINTABLE.find(text).map(|found| found.start()) {
        let why = "must only contain printable UTF-8 characters; non-printable character found at index";
        warning.invalid(errors, format!("{why} {at}"));
    }
}

fn names_of(names: &At<'_>, errors: &mut ErrorList) {
    for at in ["plural", "singular"].map(|name| names.get(name)) {
        let wrong = format::dns_1035_label(at.text());
        if !at.is_empty() && !wrong.is_empty() {
            at.invalid(errors, wrong.join(","));
        }
    }
    for name in ["kind", "listKind"] {
        let at = names.get(name);
        let wrong = format::dns_1035_label(&at.text().to_lowercase());
        if !at.is_empty() && !wrong.is_empty() {
            at.invalid(
                errors,
                format!("may have mixed case, but should otherwise match: {}", wrong.join(",")),
            );
        }
    }
    labels(&names.get("shortNames"), errors);
    let list = names.get("listKind");
    if !list.is_empty() && list.text() == names.text_of("kind") {
        list.invalid(errors, "kind and listKind may not be the same");
    }
    labels(&names.get("categories"), errors);
}

/// Each is a label; all that is wrong with one is told at once.
fn labels(list: &At<'_>, errors: &mut ErrorList) {
    for name in list.items() {
        let wrong = format::dns_1035_label(name.text());
        if !wrong.is_empty() {
            name.invalid(errors, wrong.join(","));
        }
    }
}

fn subresources(subresources: &At<'_>, errors: &mut ErrorList) {
    let scale = subresources.get("scale");
    if !scale.is_set() {
        return;
    }
    let places: [(&str, &[&str], &str); 3] = [
        ("specReplicasPath", &[".spec."], "should be a json path under .spec"),
        ("statusReplicasPath", &[".status."], "should be a json path under .status"),
        ("labelSelectorPath", &[".spec.", ".status."], "should be a json path under either .spec or .status"),
    ];
    for (name, below, why) in places {
        let path = scale.get(name);
        if path.is_empty() {
            if name != "labelSelectorPath" {
                path.required(errors, "");
            }
        } else if simple_path(&path, errors) && !below.iter().any(|stem| path.text().starts_with(stem)) {
            path.invalid(errors, why);
        }
    }
}

fn simple_path(path: &At<'_>, errors: &mut ErrorList) -> bool {
    let good = path.text().starts_with('.');
    if !good {
        path.invalid(errors, "must be a simple json path starting with .");
    }
    good
}

fn columns(columns: &At<'_>, errors: &mut ErrorList) {
    for column in columns.items() {
        column.get("name").check_required(errors);
        let kind = column.get("type");
        let types = format!("must be one of {}", COLUMN_TYPES.join(","));
        if kind.is_empty() {
            kind.required(errors, types);
        } else if !COLUMN_TYPES.contains(&kind.text()) {
            kind.invalid(errors, types);
        }
        let format = column.get("format");
        if !format.is_empty() && !COLUMN_FORMATS.contains(&format.text()) {
            format.invalid(errors, format!("must be one of {}", COLUMN_FORMATS.join(",")));
        }
        // Told by the name the field had in its first version.
        let path = column.get("jsonPath").named(column.path().child("JSONPath"));
        if path.check_required(errors) {
            simple_path(&path, errors);
        }
    }
}

/// Whether a stored definition has more selectable fields than it may, and these are they: those of one version, or
/// those that all versions share.
fn keeps_many(fields: &At<'_>, old: Option<&Object>, version: Option<&str>) -> bool {
    let Some(old) = old.filter(|_| fields.len() > MAX_SELECTABLE) else { return false };
    let is_it = |v: &Value| version.is_none_or(|name| v["name"] == name);
    let same = |v: &Value| is_it(v) && v["selectableFields"] == *fields.value();
    Shared::of(old).selectable == version.is_none() && versions(old).any(same)
}

fn selectable(fields: &At<'_>, document: Option<&Value>, many: bool, shared: bool, errors: &mut ErrorList) {
    if fields.is_empty() {
        return;
    }
    let Some(document) = document else {
        let why = if shared {
            "may only be set when validations.schema is included"
        } else {
            "may only be set when `version.schema.openAPIV3Schema` is not included"
        };
        return fields.invalid_as(errors, "", why);
    };
    let schema = Schema::read(document);
    let mut seen: Vec<String> = Vec::new();
    for field in fields.items() {
        let path = field.get("jsonPath");
        if !path.check_required(errors) {
            continue;
        }
        let target = match fieldpath::resolve(path.text(), &schema, false) {
            Ok(target) => target,
            Err(why) => {
                path.invalid(errors, format!("is an invalid path: {why}"));
                continue;
            }
        };
        if target.root == "metadata" {
            path.invalid(errors, "must not point to fields in metadata");
        }
        if !matches!(target.schema.kind.as_str(), "string" | "boolean" | "integer") {
            let why = "must point to a field of type string, boolean or integer. Enum string fields and strings with \
                       formats are allowed.";
            path.invalid(errors, why);
        }
        let at = target.path.to_string();
        if seen.contains(&at) {
            path.duplicate(errors);
        } else {
            seen.push(at);
        }
    }
    if seen.len() > MAX_SELECTABLE && !many {
        errors.push(Error::too_many(fields.path(), seen.len(), MAX_SELECTABLE));
    }
}

/// Fields are told by the names they had before there was a `webhook` around them.
fn conversion(conversion: &At<'_>, rules: Rules, errors: &mut ErrorList) {
    if !conversion.is_set() {
        return;
    }
    conversion.get("strategy").check_one_of(errors, &["None", "Webhook"]);
    let webhook = conversion.get("webhook");
    let client = webhook.get("clientConfig").named(conversion.path().child("webhookClientConfig"));
    let reviews =
        webhook.get("conversionReviewVersions").named(conversion.path().child("conversionReviewVersions"));
    if conversion.text_of("strategy") != "Webhook" {
        let why = "should not be set when strategy is not set to Webhook";
        if client.is_set() {
            client.forbidden(errors, why);
        }
        if !reviews.is_empty() {
            reviews.forbidden(errors, why);
        }
        return;
    }
    if client.is_set() {
        client_config(&client, rules, errors);
    } else {
        client.required(errors, "required when strategy is set to Webhook");
    }
    review_versions(&reviews, rules, errors);
}

fn review_versions(reviews: &At<'_>, rules: Rules, errors: &mut ErrorList) {
    if !reviews.check_required(errors) {
        return;
    }
    let mut seen = Vec::new();
    for review in reviews.items() {
        if seen.contains(&review.text()) {
            review.invalid(errors, "duplicate version");
            continue;
        }
        seen.push(review.text());
        for why in format::dns_1035_label(review.text()) {
            review.invalid(errors, why);
        }
    }
    if rules.known_review && !seen.iter().any(|review| REVIEWS.contains(review)) {
        reviews.invalid(errors, format!("must include at least one of {}", REVIEWS.join(", ")));
    }
}

fn client_config(client: &At<'_>, rules: Rules, errors: &mut ErrorList) {
    webhook_client::check(client, errors);
    let bundle = client.get("caBundle");
    if rules.readable_bundle
        && !bundle.is_empty()
        && let Some(why) = unreadable(bundle.text())
    {
        bundle.invalid(errors, why);
    }
}

fn unreadable(bundle: &str) -> Option<String> {
    let bytes = BASE64_STANDARD.decode(bundle).unwrap_or_default();
    webhook::bundle_error(&bytes)
}

fn bundle_error(definition: &Object) -> Option<String> {
    let bundle = definition.pointer("/spec/conversion/webhook/clientConfig/caBundle")?.as_str()?;
    if bundle.is_empty() { None } else { unreadable(bundle) }
}

/// What storage and names are made of stays what it is.
fn unchanged(new: &Object, old: &Object, errors: &mut ErrorList) {
    let (new_spec, old_spec) = (At::spec(new), At::spec(old));
    let (names, old_names) = (new_spec.get("names"), old_spec.get("names"));
    if conditions::is_true(old, "Established") {
        new_spec.get("scope").check_unchanged(&old_spec.get("scope"), errors);
        names.get("kind").check_unchanged(&old_names.get("kind"), errors);
    }
    new_spec.get("group").check_unchanged(&old_spec.get("group"), errors);
    names.get("plural").check_unchanged(&old_names.get("plural"), errors);
}

fn status(obj: &Object, errors: &mut ErrorList) {
    names_of(&At::status(obj).get("acceptedNames"), errors);
}

fn stored_versions(obj: &Object, errors: &mut ErrorList) {
    let stored = At::status(obj).get("storedVersions");
    if stored.is_empty() {
        let path = stored.path();
        return errors.push(Error::invalid(path, json!([]), "must have at least one stored version"));
    }
    for version in versions(obj).filter(|v| v["storage"] == true) {
        let name = version["name"].as_str().unwrap_or_default();
        if !stored.items().any(|s| s.text() == name) {
            stored.invalid(errors, format!("must have the storage version {name}"));
        }
    }
    for gone in stored.items().filter(|s| !versions(obj).any(|v| v["name"] == s.text())) {
        let name = gone.text();
        gone.invalid(
            errors,
            format!(
                "missing from spec.versions; {name} was previously a storage version, and must remain in spec.versions \
                 until a storage migration ensures no data remains persisted in {name} and removes {name} from \
                 status.storedVersions"
            ),
        );
    }
}

/// Groups of the project are used with consent; what was said about that before may be said again.
fn consent(new: &Object, old: Option<&Object>, errors: &mut ErrorList) {
    let Some(why) = conditions::approval_error(new) else { return };
    let is_missing = |definition: &Object| definition.annotation(APPROVED).is_none_or(str::is_empty);
    let same = |old: &Object| conditions::approval_error(old).is_some() && is_missing(old) == is_missing(new);
    if old.is_some_and(same) {
        return;
    }
    let path = Path::new("metadata").child("annotations").key(APPROVED);
    errors.push(match new.annotation(APPROVED) {
        None | Some("") => Error::required(&path, why),
        Some(said) => Error::invalid(&path, said, why),
    });
}

fn open_fields(new: &Object, old: Option<&Object>, errors: &mut ErrorList) {
    let open = |o: &Object| o.pointer("/spec/preserveUnknownFields") == Some(&Value::Bool(true));
    if open(new) && !old.is_some_and(open) {
        let why = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
        At::spec(new).get("preserveUnknownFields").invalid(errors, why);
    }
}

/// Members of a map that is there.
fn members(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter)
}

#[cfg(test)]
mod tests;
