//! Forms of pages about the server itself: text for people, and objects for those who name version and kind.
//!
//! Contract: upstream's `statusz` and `flagz` handlers: text unless `g`, `v` and `as` ask for an object.

use std::cmp::Reverse;

use http::{HeaderMap, header};

use super::Clause;
use crate::status::Status;

/// The group of the objects.
pub const GROUP: &str = "config.k8s.io";
/// Versions of the objects, the newest first; the others are deprecated.
const VERSIONS: [&str; 2] = ["v1beta1", "v1alpha1"];
/// Media types of pages.
const OFFERED: [&str; 3] = ["application/json", "application/yaml", "text/plain"];

/// How a page is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Lines of text.
    Text,
    /// An object in JSON of this version.
    Json(&'static str),
    /// An object in YAML of this version.
    Yaml(&'static str),
}

impl Form {
    /// What the client wants of a page whose object is of this kind.
    ///
    /// # Errors
    /// 406 when it takes none of the forms.
    pub fn choose(headers: &HeaderMap, kind: &str) -> Result<Self, Status> {
        let mut clauses: Vec<Clause<'_>> = Vec::new();
        for value in headers.get_all(header::ACCEPT) {
            clauses.extend(value.to_str().unwrap_or_default().split(',').filter_map(Clause::parse));
        }
        if clauses.is_empty() {
            return Ok(Self::Text);
        }
        clauses.sort_by_key(|clause| Reverse(clause.quality));
        let found = clauses.iter().filter(|clause| clause.quality > 0).find_map(|clause| clause.page(kind));
        found.ok_or_else(|| Status::not_acceptable(&OFFERED))
    }

    /// The version of the object; none of text.
    pub fn version(self) -> Option<&'static str> {
        match self {
            Self::Text => None,
            Self::Json(version) | Self::Yaml(version) => Some(version),
        }
    }

    /// Whether the version will not be there for long.
    pub fn is_deprecated(self) -> bool {
        self.version().is_some_and(|version| version != VERSIONS[0])
    }
}

impl Clause<'_> {
    fn page(&self, kind: &str) -> Option<Form> {
        let parameter =
            |name: &str| self.parameters.iter().find(|(n, _)| *n == name).map(|(_, value)| *value);
        let asked = [parameter("g"), parameter("v"), parameter("as")];
        if asked == [None; 3] {
            return matches!(self.media, "text/plain" | "text/*" | "*/*").then_some(Form::Text);
        }
        let version = VERSIONS.into_iter().find(|v| asked == [Some(GROUP), Some(*v), Some(kind)])?;
        match self.media {
            "application/json" | "application/*" | "*/*" => Some(Form::Json(version)),
            "application/yaml" => Some(Form::Yaml(version)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_unless_an_object_is_named() {
        for (accept, expected) in [
            ("", Some(Form::Text)),
            ("*/*", Some(Form::Text)),
            ("text/plain", Some(Form::Text)),
            ("application/json", None),
            ("application/json, */*;q=0.1", Some(Form::Text)),
            ("application/json;g=config.k8s.io;v=v1beta1;as=Statusz", Some(Form::Json("v1beta1"))),
            ("application/yaml;as=Statusz;v=v1alpha1;g=config.k8s.io", Some(Form::Yaml("v1alpha1"))),
            ("application/json;g=config.k8s.io;v=v1;as=Statusz", None),
            ("application/json;g=config.k8s.io;v=v1beta1;as=Flagz", None),
            ("text/plain;g=config.k8s.io;v=v1beta1;as=Statusz", None),
            ("application/vnd.kubernetes.protobuf", None),
            ("text/plain;q=0", None),
        ] {
            let mut headers = HeaderMap::new();
            if !accept.is_empty() {
                headers.insert(header::ACCEPT, accept.parse().unwrap());
            }
            let found = Form::choose(&headers, "Statusz");
            assert_eq!(found.as_ref().ok().copied(), expected, "{accept}");
            if let Err(status) = found {
                assert_eq!(status.code, 406);
            }
        }
        assert!(Form::Json("v1alpha1").is_deprecated() && !Form::Json("v1beta1").is_deprecated());
    }
}
