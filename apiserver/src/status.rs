//! API failures as typed `Status` objects, built in this one place.
//!
//! Every error a client sees is a [`Status`] with upstream's code, reason, message and details
//! (API conventions, "Response Status Kind"; apimachinery `pkg/api/errors`). Handlers return
//! `Result<_, Status>`; nothing else decides on a code or words a reason.

use std::fmt;

use serde::Serialize;
use serde_json::{Value, json};

use crate::field::{Error as FieldError, ErrorList};

/// A group and resource (`deployments.apps`) or kind (`Deployment.apps`), printed as upstream does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct GroupName {
    /// API group; empty for the core group.
    pub group: String,
    /// Plural resource name or kind.
    pub name: String,
}

/// Machine-readable cause of a failure (API conventions, `metav1.StatusReason`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Reason {
    /// No reason is known; the code speaks.
    #[serde(rename = "")]
    Unknown,
    /// 401: no or bad credentials.
    Unauthorized,
    /// 403: authenticated, not allowed; admission denials too.
    Forbidden,
    /// 404.
    NotFound,
    /// 409 on create.
    AlreadyExists,
    /// 409: stale resourceVersion, failed precondition, apply conflict.
    Conflict,
    /// 410: history is gone.
    Gone,
    /// 422: validation failed; causes name the fields.
    Invalid,
    /// 504 or 500 with a hint to retry.
    ServerTimeout,
    /// 500: the store read does not decode.
    StoreReadError,
    /// 504: request took too long.
    Timeout,
    /// 429.
    TooManyRequests,
    /// 400.
    BadRequest,
    /// 405.
    MethodNotAllowed,
    /// 406.
    NotAcceptable,
    /// 413.
    RequestEntityTooLarge,
    /// 415.
    UnsupportedMediaType,
    /// 500.
    InternalError,
    /// 410: continue token or resourceVersion too old.
    Expired,
    /// 503.
    ServiceUnavailable,
}

/// One field- or ownership-level cause inside `details.causes`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cause {
    /// `metav1.CauseType`, for example `FieldValueInvalid`.
    #[serde(rename = "reason", skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// What went wrong, without the field.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Field path, JSON names, indices in brackets.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub field: String,
}

impl From<&FieldError> for Cause {
    fn from(error: &FieldError) -> Self {
        Self { kind: error.kind.cause().to_owned(), message: error.body(), field: error.field.clone() }
    }
}

/// `metav1.StatusDetails`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Details {
    /// Object name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// API group.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// Plural resource, or kind for validation errors.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// Object uid.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// Causes, in the order found.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<Cause>,
    /// Seconds after which a client may retry; 0 is left out.
    #[serde(skip_serializing_if = "is_zero")]
    pub retry_after_seconds: u32,
}

/// A failed request's answer. `Display` gives the message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// HTTP status code.
    pub code: u16,
    /// Machine-readable reason.
    pub reason: Reason,
    /// Human-readable message in upstream's wording.
    pub message: String,
    /// Object and causes, when there are any.
    pub details: Option<Box<Details>>,
    /// `metadata.continue`: where an expired list can be taken up again.
    pub continues: Option<Box<str>>,
    /// The whole Status where another program made it, which may say what the fields above cannot.
    told: Option<Box<Value>>,
    /// What the client is warned of beside the failure.
    warnings: Vec<String>,
    /// It is said in plain text, as stages do that come before objects.
    is_plain: bool,
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// Several errors in one, each said once.
fn aggregate(errors: &ErrorList) -> String {
    let mut seen = Vec::with_capacity(errors.as_slice().len());
    for text in errors.iter().map(FieldError::to_string) {
        if !seen.contains(&text) {
            seen.push(text);
        }
    }
    if seen.len() == 1 { seen.remove(0) } else { format!("[{}]", seen.join(", ")) }
}

// === impl GroupName ===

impl GroupName {
    /// `name` in `group` (empty for core).
    pub fn new(group: impl Into<String>, name: impl Into<String>) -> Self {
        Self { group: group.into(), name: name.into() }
    }
}

impl fmt::Display for GroupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.group.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}.{}", self.name, self.group)
        }
    }
}

// === impl Status ===

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Status {}

impl Status {
    /// A status of any code and reason, without details.
    pub fn new(code: u16, reason: Reason, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            details: None,
            continues: None,
            told: None,
            warnings: Vec::new(),
            is_plain: false,
        }
    }

    /// A Status that another program made, as it is; its code must be one of a failure.
    pub fn told(code: u16, message: impl Into<String>, status: Value) -> Self {
        Self { told: Some(Box::new(status)), ..Self::new(code, Reason::Unknown, message) }
    }

    /// Adds or replaces details.
    #[must_use]
    pub fn with_details(mut self, details: Details) -> Self {
        self.details = Some(Box::new(details));
        self
    }

    /// Sets `retryAfterSeconds` (also sent as the Retry-After header).
    #[must_use]
    pub fn with_retry_after(mut self, seconds: u32) -> Self {
        self.details.get_or_insert_default().retry_after_seconds = seconds;
        self
    }

    /// Sets the token a client may go on with after an expired list.
    #[must_use]
    pub fn with_continue(mut self, token: &str) -> Self {
        self.continues = Some(token.into());
        self
    }

    fn about(mut self, what: &GroupName, name: &str) -> Self {
        let d = self.details.get_or_insert_default();
        d.group = what.group.clone();
        d.kind = what.name.clone();
        d.name = name.to_owned();
        self
    }

    /// 404 for an object: `pods "x" not found`.
    pub fn not_found(resource: &GroupName, name: &str) -> Self {
        Self::new(404, Reason::NotFound, format!("{resource} \"{name}\" not found")).about(resource, name)
    }

    /// 404 for a path that serves nothing.
    pub fn no_such_path() -> Self {
        Self::new(404, Reason::NotFound, "the server could not find the requested resource")
            .with_details(Details::default())
    }

    /// A method that the routes of built-in resources do not have.
    pub fn no_such_method() -> Self {
        Self::new(
            405,
            Reason::MethodNotAllowed,
            "the server does not allow this method on the requested resource",
        )
        .with_details(Details::default())
    }

    /// 409 on create: `pods "x" already exists`.
    pub fn already_exists(resource: &GroupName, name: &str) -> Self {
        Self::new(409, Reason::AlreadyExists, format!("{resource} \"{name}\" already exists"))
            .about(resource, name)
    }

    /// 409 on create, of a name that the server made.
    pub fn no_unique_name(resource: &GroupName, name: &str) -> Self {
        let why = format!(
            "{resource} \"{name}\" already exists, the server was not able to generate a unique name for the object"
        );
        Self::new(409, Reason::AlreadyExists, why).about(resource, name).with_retry_after(1)
    }

    /// 409: `Operation cannot be fulfilled on pods "x": why`.
    pub fn conflict(resource: &GroupName, name: &str, why: &str) -> Self {
        Self::new(
            409,
            Reason::Conflict,
            format!("Operation cannot be fulfilled on {resource} \"{name}\": {why}"),
        )
        .about(resource, name)
    }

    /// The conflict of an update whose resourceVersion is stale.
    pub fn stale(resource: &GroupName, name: &str) -> Self {
        Self::conflict(
            resource,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    /// 403: `pods "x" is forbidden: why` (name left out when empty).
    pub fn forbidden(resource: &GroupName, name: &str, why: &str) -> Self {
        let message = if name.is_empty() {
            format!("{resource} is forbidden: {why}")
        } else {
            format!("{resource} \"{name}\" is forbidden: {why}")
        };
        Self::new(403, Reason::Forbidden, message).about(resource, name)
    }

    /// 422 with one cause per field error: `Pod "x" is invalid: spec.a: Required value`.
    pub fn invalid(kind: &GroupName, name: &str, errors: &ErrorList) -> Self {
        let list = aggregate(errors);
        let mut status = Self::new(422, Reason::Invalid, format!("{kind} \"{name}\" is invalid: {list}"))
            .about(kind, name);
        status.details.get_or_insert_default().causes = errors.iter().map(Cause::from).collect();
        status
    }

    /// 409, of an object that is stored with this key and is not the one that was meant: what tells them apart, what was
    /// wanted and what is there.
    pub fn precondition(
        resource: &GroupName,
        name: &str,
        key: &str,
        (label, want, have): (&str, &str, &str),
    ) -> Self {
        let why = format!(
            "StorageError: invalid object, Code: 4, Key: {key}, ResourceVersion: 0, AdditionalErrorMsg: Precondition \
             failed: {label} in precondition: {want}, {label} in object meta: {have}"
        );
        Self::conflict(resource, name, &why)
    }

    /// 500, of errors that have no kind: what upstream answers where it does not say what is invalid.
    pub fn aggregate(errors: &ErrorList) -> Self {
        Self::new(500, Reason::Unknown, aggregate(errors))
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, Reason::BadRequest, message)
    }

    /// 401.
    pub fn unauthorized() -> Self {
        Self::new(401, Reason::Unauthorized, "Unauthorized")
    }

    /// 405: `verb is not supported on resources of kind "x"`.
    pub fn method_not_allowed(resource: &GroupName, verb: &str) -> Self {
        Self::new(
            405,
            Reason::MethodNotAllowed,
            format!("{verb} is not supported on resources of kind \"{resource}\""),
        )
        .about(resource, "")
    }

    /// 406.
    pub fn not_acceptable(offered: &[&str]) -> Self {
        Self::new(
            406,
            Reason::NotAcceptable,
            format!("only the following media types are accepted: {}", offered.join(", ")),
        )
    }

    /// With what the client is warned of beside the failure.
    #[must_use]
    pub fn with_warnings(self, warnings: Vec<String>) -> Self {
        Self { warnings, ..self }
    }

    /// The same, said in plain text.
    #[must_use]
    pub fn in_plain_text(self) -> Self {
        Self { is_plain: true, ..self }
    }

    /// Whether it is said in plain text.
    pub fn is_plain(&self) -> bool {
        self.is_plain
    }

    /// What the client is warned of beside the failure.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// 415.
    pub fn unsupported_media_type(offered: &[&str]) -> Self {
        Self::new(
            415,
            Reason::UnsupportedMediaType,
            format!(
                "the body of the request was in an unknown format - accepted media types include: {}",
                offered.join(", ")
            ),
        )
    }

    /// 413.
    pub fn too_large(message: impl Into<String>) -> Self {
        Self::new(413, Reason::RequestEntityTooLarge, message)
    }

    /// 410 with reason Expired: a resourceVersion or continue token older than history.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, Reason::Expired, message)
    }

    /// 429 with a retry hint, in seconds.
    pub fn too_many_requests(message: impl Into<String>, retry_after: u32) -> Self {
        Self::new(429, Reason::TooManyRequests, message).with_retry_after(retry_after)
    }

    /// 500: `Internal error occurred: why`.
    pub fn internal(why: impl fmt::Display) -> Self {
        let mut status = Self::new(500, Reason::InternalError, format!("Internal error occurred: {why}"));
        status.details.get_or_insert_default().causes =
            vec![Cause { kind: String::new(), message: why.to_string(), field: String::new() }];
        status
    }

    /// 503.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(503, Reason::ServiceUnavailable, message)
    }

    /// 504 for a request that ran out of time.
    pub fn timeout(message: impl Into<String>) -> Self {
        Self::new(504, Reason::Timeout, format!("Timeout: {}", message.into()))
            .with_details(Details::default())
    }

    /// The `v1.Status` object as JSON.
    pub fn to_value(&self) -> Value {
        if let Some(told) = &self.told {
            return (**told).clone();
        }
        let mut v = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "code": self.code,
        });
        if self.reason != Reason::Unknown {
            v["reason"] = json!(self.reason);
        }
        if let Some(details) = &self.details {
            v["details"] = json!(details);
        }
        if let Some(token) = &self.continues {
            v["metadata"] = json!({"continue": token});
        }
        v
    }
}
