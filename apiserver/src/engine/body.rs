//! Bodies of writes: decoding with field validation, and patches of the current object.

use std::borrow::Cow;

use http::header;
use proto::{cbor, node::Node};
use serde_json::Value;

use super::Call;
use crate::{
    field::{Error, ErrorList, Path},
    object::Object,
    patch,
    schema::{self, FieldValidation, Sent},
    status::{GroupName, Status},
};

/// What is done with a patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PatchKind {
    Json,
    Merge,
    Strategic,
    Apply,
}

/// The media types of patches. Custom objects have no strategic merge; CBOR is not always spoken.
const PATCHES: [(&str, PatchKind); 5] = [
    ("application/json-patch+json", PatchKind::Json),
    ("application/merge-patch+json", PatchKind::Merge),
    ("application/strategic-merge-patch+json", PatchKind::Strategic),
    ("application/apply-patch+yaml", PatchKind::Apply),
    (cbor::APPLY_TYPE, PatchKind::Apply),
];

impl Call {
    /// The Content-Type without its parameters.
    pub(super) fn content_type(&self) -> &str {
        let sent = self.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
        sent.split(';').next().unwrap_or_default().trim()
    }

    /// What kind of patch is sent.
    pub(super) fn patch_kind(&self) -> Result<PatchKind, Status> {
        let (sent, is_custom, cbor) =
            (self.content_type(), self.custom().is_some(), self.server.speaks_cbor());
        let is_taken = |(name, kind): &&(&str, PatchKind)| {
            (*kind != PatchKind::Strategic || !is_custom) && (*name != cbor::APPLY_TYPE || cbor)
        };
        let kind = PATCHES.iter().filter(is_taken).find(|(name, _)| *name == sent).map(|(_, kind)| *kind);
        let kind = kind.ok_or_else(|| {
            let taken: Vec<&str> = PATCHES.iter().filter(is_taken).map(|(name, _)| *name).collect();
            Status::unsupported_media_type(&taken)
        })?;
        if kind != PatchKind::Apply && self.info.query.has("force") {
            let why = "may not be specified for non-apply patch";
            return Err(self.bad_option(Error::forbidden(&Path::new("force"), why)));
        }
        Ok(kind)
    }

    pub(super) fn field_validation(&self) -> Result<FieldValidation, Status> {
        FieldValidation::parse(self.info.query.get("fieldValidation"), self.options_kind())
    }

    pub(super) fn warn(&mut self, complaints: Vec<String>) {
        for text in complaints {
            // Duplicate keys of YAML come as one text of several lines.
            let lines = text.strip_prefix("yaml: unmarshal errors:\n").unwrap_or(&text).lines();
            for line in lines.map(|line| line.trim().to_owned()) {
                if !self.warnings.contains(&line) {
                    self.warnings.push(line);
                }
            }
        }
    }

    /// The object in the body. `api_version` and `kind` are what it is where it does not say so itself.
    pub(super) fn read_object(&mut self, api_version: &str, kind: &str) -> Result<Object, Status> {
        let validation = self.field_validation()?;
        let body = self.body.clone();
        let sent = schema::read(&self.headers, &body, self.server.speaks_cbor());
        let Sent { node, duplicates, named } = sent.map_err(|failure| failure.of(kind, &body))?;
        let said = |name| node.get(name).and_then(Node::as_str).filter(|text| !text.is_empty());
        let (sent_version, sent_kind) =
            (said("apiVersion").unwrap_or(api_version), said("kind").unwrap_or(kind));
        let refuse = |why: &str| {
            let version = sent_version.rsplit('/').next().unwrap_or_default();
            Status::bad_request(format!(
                "{sent_kind} in version {version:?} cannot be handled as a {kind}: {why}"
            ))
        };
        let mut decoded = match schema::type_of(sent_version, sent_kind) {
            Some(id) => schema::decode(&node, id).map_err(|why| refuse(&why))?,
            None => schema::decode_untyped(&node),
        };
        let mut complaints = duplicates;
        if named {
            complaints.append(&mut decoded.strict);
        }
        if sent_kind == self.resource.kind
            && sent_version == self.info.api_version()
            && let Some(custom) = self.custom()
            && let Some(object) = decoded.object.as_object_mut()
        {
            let unknown = custom.shape(object).map_err(|why| refuse(&why))?;
            complaints.extend(unknown.iter().map(|path| format!("unknown field {path:?}")));
        }
        match validation {
            FieldValidation::Strict if !complaints.is_empty() => {
                return Err(refuse(&schema::strict_error(&complaints)));
            }
            FieldValidation::Warn => self.warn(complaints),
            _ => {}
        }
        Object::from_value(decoded.object)
    }

    /// Why an object that says it is of this version and kind is none of the resource, in upstream's words; nothing where
    /// it is one, perhaps of another version.
    pub(super) fn foreign(&self, api_version: &str, kind: &str) -> Option<String> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let is_known = schema::type_of(api_version, kind).is_some()
            || group == self.resource.group && self.custom().is_some();
        if !is_known {
            return Some(format!(
                "no kind {kind:?} is registered for version {api_version:?} in scheme \
                 \"pkg/api/legacyscheme/scheme.go:30\""
            ));
        }
        let package = self.package();
        (kind != self.resource.kind).then(|| {
            format!("converting ({version}.{kind}) to ({package}.{}): unknown conversion", self.resource.kind)
        })
    }

    /// The package that has the kind inside upstream's server, where every group is one.
    pub(super) fn package(&self) -> &'static str {
        match self.resource.group {
            "" | "events.k8s.io" => "core",
            group => group.split('.').next().unwrap_or_default(),
        }
    }

    /// Reads the body of a patch that is one JSON object; a strategic one speaks for itself where it is none.
    pub(super) fn read_patch(&mut self, kind: PatchKind) -> Result<Value, Status> {
        let validation = self.field_validation()?;
        let body = self.body.clone();
        let bad = |why: &str| match kind {
            PatchKind::Strategic => Status::bad_request(why),
            _ => Status::bad_request(format!("error decoding patch: {why}")),
        };
        let node: Node<'_> =
            serde_json::from_slice(&body).map_err(|e| bad(&schema::syntax_error(&body, &e)))?;
        let word = match &node {
            Node::Object(_) => "",
            Node::Array(_) => "array",
            Node::String(_) => "string",
            Node::Bool(_) => "bool",
            _ => "number",
        };
        if !word.is_empty() {
            return Err(bad(&format!(
                "json: cannot unmarshal {word} into Go value of type map[string]interface {{}}"
            )));
        }
        let decoded = schema::decode_untyped(&node);
        let shown = if kind == PatchKind::Strategic {
            patch::go_text(&decoded.object)
        } else {
            decoded.object.to_string()
        };
        self.judge_patch(validation, &shown, decoded.strict)?;
        Ok(decoded.object)
    }

    /// Reads the body of a JSON patch.
    pub(super) fn read_json_patch(&mut self) -> Result<patch::JsonPatch, Status> {
        let validation = self.field_validation()?;
        let body = self.body.clone();
        let (patch, complaints) = patch::JsonPatch::parse(&body)?;
        self.judge_patch(validation, "null", complaints)?;
        Ok(patch)
    }

    /// The patched object in its shape: what the patch made unknown or wrong is told. Where it was merged by a
    /// `strategic` patch, field by field, it is of its kind whatever it says, and that patch is shown of it.
    pub(super) fn check_patched(
        &mut self,
        patched: Value,
        strategic: Option<&Value>,
    ) -> Result<Object, Status> {
        let validation = self.field_validation()?;
        let Some(id) = schema::type_of(&self.info.api_version(), self.resource.kind) else {
            return self.check_custom(patched, validation);
        };
        let shown = || strategic.map_or_else(|| patched.to_string(), patch::go_text);
        let said = |name| patched.get(name).and_then(Value::as_str).unwrap_or_default();
        if strategic.is_none()
            && let Some(why) = self.foreign(said("apiVersion"), said("kind"))
        {
            return Err(invalid_patch(shown(), why));
        }
        let decoded = match schema::decode(&Node::from(&patched), id) {
            Ok(decoded) => decoded,
            Err(why) => return Err(invalid_patch(shown(), why)),
        };
        if !decoded.strict.is_empty() {
            self.judge_patch(validation, &shown(), decoded.strict)?;
        }
        Object::from_value(decoded.object)
    }

    /// The same for a custom object.
    fn check_custom(&mut self, mut patched: Value, validation: FieldValidation) -> Result<Object, Status> {
        let unknown = match (self.custom(), patched.as_object_mut()) {
            (Some(custom), Some(object)) => custom.shape(object),
            _ => Ok(Vec::new()),
        };
        let unknown = unknown.map_err(|why| invalid_patch(patched.to_string(), why))?;
        if !unknown.is_empty() {
            let complaints = unknown.iter().map(|path| format!("unknown field {path:?}")).collect();
            self.judge_patch(validation, &patched.to_string(), complaints)?;
        }
        Object::from_value(patched)
    }

    fn judge_patch(
        &mut self,
        validation: FieldValidation,
        shown: &str,
        complaints: Vec<String>,
    ) -> Result<(), Status> {
        match validation {
            FieldValidation::Strict if !complaints.is_empty() => {
                Err(invalid_patch(shown.to_owned(), schema::strict_error(&complaints)))
            }
            FieldValidation::Warn => {
                self.warn(complaints);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

fn invalid_patch(shown: String, why: impl Into<Cow<'static, str>>) -> Status {
    let mut errors = ErrorList::new();
    errors.push(Error::invalid(&Path::new("patch"), shown, why.into()));
    Status::invalid(&GroupName::new("", ""), "", &errors)
}
