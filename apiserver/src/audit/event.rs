//! An audit event: one stage of one request, as it is recorded.

use std::{collections::BTreeMap, net::IpAddr};

use http::{HeaderMap, header};
use jiff::Timestamp;
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use super::policy::{Level, Verdict};
use crate::auth::{Attributes, User};

/// Longer user agents are cut.
const MAX_AGENT: usize = 1024;

/// Where a request is when an event is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum Stage {
    /// Its user is known, nothing has been done.
    #[default]
    RequestReceived,
    /// The head of the answer goes out, and the rest will take a while.
    ResponseStarted,
    /// The answer is complete.
    ResponseComplete,
    /// It broke the server's code.
    Panic,
}

/// What an event says of a request besides its attributes.
#[derive(Clone, Debug, Default)]
pub struct Described {
    /// Same as the answer's `Audit-Id`.
    pub id: String,
    /// When it came.
    pub received: Timestamp,
    /// Path and query as sent.
    pub uri: String,
    /// `User-Agent`.
    pub agent: String,
    /// Proxies on the way as they say themselves, then the peer.
    pub sources: Vec<String>,
}

/// An event of audit.k8s.io/v1.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    kind: &'static str,
    api_version: &'static str,
    level: &'static str,
    #[serde(rename = "auditID")]
    id: String,
    stage: Stage,
    #[serde(rename = "requestURI")]
    uri: String,
    verb: String,
    user: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    impersonated_user: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    authentication_metadata: Option<Value>,
    #[serde(rename = "sourceIPs", skip_serializing_if = "Vec::is_empty")]
    sources: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    user_agent: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    object_ref: Option<ObjectRef>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_status: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) request_object: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) response_object: Option<Value>,
    #[serde(rename = "requestReceivedTimestamp", serialize_with = "micros")]
    received: Timestamp,
    #[serde(serialize_with = "micros")]
    stage_timestamp: Timestamp,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) annotations: BTreeMap<String, String>,
}

/// What a request is about.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct ObjectRef {
    #[serde(skip_serializing_if = "String::is_empty")]
    resource: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    namespace: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    uid: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    api_group: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    api_version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    resource_version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    subresource: String,
}

fn micros<S: Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&at.strftime("%Y-%m-%dT%H:%M:%S.%6fZ"))
}

impl Stage {
    pub(super) const ALL: [Self; 4] =
        [Self::RequestReceived, Self::ResponseStarted, Self::ResponseComplete, Self::Panic];

    /// As the API spells it.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::RequestReceived => "RequestReceived",
            Self::ResponseStarted => "ResponseStarted",
            Self::ResponseComplete => "ResponseComplete",
            Self::Panic => "Panic",
        }
    }
}

impl Described {
    /// Reads what the headers say.
    pub fn new(
        id: String,
        received: Timestamp,
        uri: &http::Uri,
        headers: &HeaderMap,
        peer: Option<IpAddr>,
    ) -> Self {
        let text = |name: header::HeaderName| {
            headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
        };
        let mut agent = text(header::USER_AGENT);
        if agent.len() > MAX_AGENT {
            agent.truncate(MAX_AGENT);
            agent.push_str("...TRUNCATED");
        }
        let uri = uri.path_and_query().map_or("/", |whole| whole.as_str()).to_owned();
        let forwarded = text(header::HeaderName::from_static("x-forwarded-for"));
        let real = text(header::HeaderName::from_static("x-real-ip"));
        Self { id, received, uri, agent, sources: sources(&forwarded, &real, peer) }
    }
}

/// Addresses a request came by; all but the last are what others say.
fn sources(forwarded: &str, real: &str, peer: Option<IpAddr>) -> Vec<String> {
    let mut all: Vec<IpAddr> = forwarded.split(',').filter_map(|one| one.trim().parse().ok()).collect();
    all.extend(real.trim().parse().ok().filter(|real| !all.contains(real)));
    all.extend(peer.map(|peer| peer.to_canonical()).filter(|peer| all.last() != Some(peer)));
    all.iter().map(IpAddr::to_string).collect()
}

fn described_user(user: &User) -> Value {
    let mut who = json!({});
    if !user.name.is_empty() {
        who["username"] = user.name.as_str().into();
    }
    if !user.uid.is_empty() {
        who["uid"] = user.uid.as_str().into();
    }
    if !user.groups.is_empty() {
        who["groups"] = json!(user.groups);
    }
    if !user.extra.is_empty() {
        who["extra"] = json!(user.extra);
    }
    who
}

impl Event {
    pub(super) fn new(level: &'static str, attributes: &Attributes, described: Described) -> Self {
        let Described { id, received, uri, agent, sources } = described;
        let object_ref = attributes.is_resource.then(|| ObjectRef {
            resource: attributes.resource.to_string(),
            namespace: attributes.namespace.to_string(),
            name: attributes.name.to_string(),
            api_group: attributes.group.to_string(),
            api_version: attributes.version.to_string(),
            subresource: attributes.subresource.to_string(),
            ..ObjectRef::default()
        });
        Self {
            kind: "Event",
            api_version: "audit.k8s.io/v1",
            level,
            id,
            uri,
            verb: attributes.verb.to_string(),
            user: described_user(&attributes.user),
            sources,
            user_agent: agent,
            object_ref,
            received,
            ..Self::default()
        }
    }

    /// When the request arrived.
    pub(super) fn received(&self) -> Timestamp {
        self.received
    }

    /// The event of a stage that is reached now.
    pub(super) fn at(&self, stage: Stage, annotations: BTreeMap<String, String>) -> Self {
        Self { stage, stage_timestamp: Timestamp::now(), annotations, ..self.clone() }
    }

    pub(super) fn impersonate(&mut self, user: &User, constraint: String) {
        self.impersonated_user = Some(described_user(user));
        if !constraint.is_empty() {
            self.authentication_metadata = Some(json!({"impersonationConstraint": constraint}));
        }
    }

    /// The object that was sent.
    pub(super) fn request(&mut self, mut object: Value, verdict: &Verdict) {
        let of = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
        if let Some(about) = &mut self.object_ref {
            for (known, field) in [
                (&mut about.namespace, "namespace"),
                (&mut about.name, "name"),
                (&mut about.uid, "uid"),
                (&mut about.resource_version, "resourceVersion"),
            ] {
                if known.is_empty() {
                    *known = of(field);
                }
            }
        }
        if verdict.level >= Level::Request {
            if verdict.omits_managed_fields {
                drop_managed_fields(&mut object);
            }
            self.request_object = Some(object);
        }
    }

    /// The answer.
    pub(super) fn response(
        &mut self,
        code: u16,
        status: Option<&Value>,
        object: Option<Value>,
        verdict: &Verdict,
    ) {
        let mut told = status.cloned().unwrap_or_else(|| json!({}));
        if let Some(told) = told.as_object_mut() {
            told.remove("kind");
            told.remove("apiVersion");
            told.entry("metadata").or_insert_with(|| json!({}));
            told.insert("code".to_owned(), code.into());
        }
        self.response_status = Some(told);
        if verdict.level < Level::RequestResponse {
            return;
        }
        self.response_object = object.map(|mut object| {
            if verdict.omits_managed_fields {
                drop_managed_fields(&mut object);
            }
            object
        });
    }

    pub(super) fn level(&self) -> Level {
        Level::parse(self.level).unwrap_or_default()
    }

    /// One line for people.
    pub(super) fn legacy(&self) -> String {
        let text = |value: &Value| value.as_str().unwrap_or("<none>").to_owned();
        let groups = |user: &Value, none: &str| match user["groups"].as_array() {
            Some(groups) => groups.iter().map(Value::to_string).collect::<Vec<_>>().join(","),
            None => none.to_owned(),
        };
        let acting = self.impersonated_user.as_ref();
        let namespace = self.object_ref.as_ref().map(|o| o.namespace.as_str()).filter(|ns| !ns.is_empty());
        let response = self.response_status.as_ref().map(|status| status["code"].to_string());
        format!(
            "{} AUDIT: id={:?} stage={:?} ip={:?} method={:?} user={:?} groups={:?} as={:?} asgroups={:?} user-agent={:?} \
             namespace={:?} uri={:?} response=\"{}\"",
            self.received,
            self.id,
            self.stage.word(),
            self.sources.first().map_or("<unknown>", String::as_str),
            self.verb,
            text(&self.user["username"]),
            groups(&self.user, "<none>"),
            acting.map_or("<self>".to_owned(), |user| text(&user["username"])),
            acting.map_or("<lookup>".to_owned(), |user| groups(user, "<lookup>")),
            self.user_agent,
            namespace.unwrap_or("<none>"),
            self.uri,
            response.as_deref().unwrap_or("<deferred>"),
        )
    }
}

/// Takes the managed fields out of an object, the items of a list, or the objects of a table.
fn drop_managed_fields(object: &mut Value) {
    let drop = |object: &mut Value| {
        if let Some(meta) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            meta.remove("managedFields");
        }
    };
    drop(object);
    for item in object.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten() {
        drop(item);
    }
    for row in object.get_mut("rows").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(object) = row.get_mut("object") {
            drop(object);
        }
    }
}
