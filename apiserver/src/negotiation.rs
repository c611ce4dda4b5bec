//! Content negotiation: which encoding and which form (object, table, metadata) a response takes.
//!
//! Contract: upstream's `endpoints/handlers/negotiation` and goautoneg: clauses are tried by quality, the more
//! specific first, else in the order sent; the first one that can be served wins; none is 406.

use std::{borrow::Cow, cmp::Reverse};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use proto::{cbor, codec, node::Node};
use serde_json::Value;

use crate::{request_path::info::Query, schema, status::Status};

/// How a response is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// JSON, indented when asked for.
    Json {
        /// As [`is_for_people`] says.
        pretty: bool,
    },
    /// YAML.
    Yaml,
    /// Kubernetes' protobuf envelope.
    Protobuf,
    /// Self-described CBOR (KEP-4222).
    Cbor,
}

/// What of an object a response shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The object itself.
    Object,
    /// `meta.k8s.io/v1 Table`.
    Table,
    /// `meta.k8s.io/v1 PartialObjectMetadata` and its list.
    Metadata,
}

/// The outcome of negotiation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Media {
    /// The encoding.
    pub encoding: Encoding,
    /// The form.
    pub form: Form,
    /// Tables and metadata are asked for by their older name, `meta.k8s.io/v1beta1`.
    pub beta: bool,
    /// Metadata is asked for as that of a list.
    pub of_list: bool,
}

/// What can be served.
#[derive(Clone, Copy, Debug)]
pub struct Offer {
    /// The kind has a protobuf message; custom resources have none.
    pub protobuf: bool,
    /// The server speaks CBOR.
    pub cbor: bool,
    /// The resource can be shown as a table; what is only ever created cannot.
    pub table: bool,
    /// The response is a watch, which has no YAML form.
    pub watch: bool,
    /// JSON is indented.
    pub pretty: bool,
}

/// Whether JSON is to be indented: as the query says, and else for browsers and what people use like them.
pub fn is_for_people(query: &Query, headers: &HeaderMap) -> bool {
    match query.get("pretty") {
        "" => {
            let agent = headers.get(header::USER_AGENT).map_or(&b""[..], HeaderValue::as_bytes);
            [&b"curl"[..], b"Wget", b"Mozilla/5.0"].iter().any(|people| agent.starts_with(people))
        }
        said => matches!(said, "1" | "t" | "T" | "true" | "TRUE" | "True"),
    }
}

/// One clause of an Accept header.
struct Clause<'a> {
    media: &'a str,
    parameters: Vec<(&'a str, &'a str)>,
    /// Quality in thousandths.
    quality: u16,
}

/// Media types of bodies and answers.
pub fn offered(cbor: bool) -> &'static [&'static str] {
    const ALL: [&str; 4] = ["application/json", "application/yaml", codec::CONTENT_TYPE, cbor::CONTENT_TYPE];
    &ALL[..if cbor { 4 } else { 3 }]
}

impl Media {
    /// Plain JSON.
    pub const JSON: Self =
        Self { encoding: Encoding::Json { pretty: false }, form: Form::Object, beta: false, of_list: false };

    /// Chooses by the Accept header.
    pub fn choose(headers: &HeaderMap, offer: Offer) -> Result<Self, Status> {
        let mut clauses: Vec<Clause<'_>> = Vec::new();
        for value in headers.get_all(header::ACCEPT) {
            clauses.extend(value.to_str().unwrap_or_default().split(',').filter_map(Clause::parse));
        }
        if clauses.is_empty() {
            return Ok(Self { encoding: Encoding::Json { pretty: offer.pretty }, ..Self::JSON });
        }
        clauses.sort_by_key(|c| (Reverse(c.quality), c.media == "*/*", c.media.ends_with("/*")));
        let encodings =
            [Encoding::Json { pretty: offer.pretty }, Encoding::Yaml, Encoding::Protobuf, Encoding::Cbor];
        let mut candidates = clauses.iter().flat_map(|c| encodings.iter().map(move |e| (c, *e)));
        let found = candidates.find_map(|(clause, encoding)| clause.serve(encoding, offer));
        found.ok_or_else(|| Status::not_acceptable(offered(offer.cbor)))
    }

    /// How a failure is written for this client: as it asked, or else as JSON.
    pub fn of_failure(headers: &HeaderMap, cbor: bool, pretty: bool) -> Self {
        let offer = Offer { protobuf: true, cbor, table: true, watch: false, pretty };
        Self { form: Form::Object, of_list: false, ..Self::choose(headers, offer).unwrap_or(Self::JSON) }
    }

    /// Whether stored bytes can be sent as they are.
    pub fn is_plain(self) -> bool {
        self == Self::JSON
    }

    /// The Content-Type.
    pub fn content_type(self) -> &'static str {
        match self.encoding {
            Encoding::Json { .. } => "application/json",
            Encoding::Yaml => "application/yaml",
            Encoding::Protobuf => codec::CONTENT_TYPE,
            Encoding::Cbor => cbor::CONTENT_TYPE,
        }
    }

    /// The Content-Type of a watch.
    pub fn stream_type(self) -> &'static str {
        match self.encoding {
            Encoding::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
            Encoding::Cbor => cbor::SEQUENCE_TYPE,
            _ => self.content_type(),
        }
    }

    /// The apiVersion of tables and metadata as they were asked for.
    pub fn meta_version(self) -> &'static str {
        if self.beta { BETA_META } else { META }
    }

    /// A value of this form, in the version that was asked for.
    pub fn versioned(self, value: &Value) -> Cow<'_, Value> {
        if !self.beta {
            return Cow::Borrowed(value);
        }
        let mut value = value.clone();
        make_beta(&mut value);
        Cow::Owned(value)
    }

    /// Writes a value.
    pub fn encode(self, value: &Value) -> Result<Bytes, Status> {
        let value = &*self.versioned(value);
        let mut bytes = match self.encoding {
            Encoding::Json { pretty: false } => value.to_string().into_bytes(),
            Encoding::Json { pretty: true } => serde_json::to_vec_pretty(value).map_err(Status::internal)?,
            Encoding::Yaml => serde_saphyr::to_string(value).map_err(Status::internal)?.into_bytes(),
            Encoding::Protobuf => {
                return codec::from_json(value.to_string().as_bytes()).map_err(Status::internal);
            }
            Encoding::Cbor => return Ok(cbor::encode(&Node::from(value), any_order()).into()),
        };
        if !bytes.ends_with(b"\n") {
            bytes.push(b'\n');
        }
        Ok(bytes.into())
    }

    /// Writes stored JSON of the requested version; `None` where this media needs the decoded object.
    pub fn transcode(self, json: &Bytes) -> Option<Result<Bytes, Status>> {
        match (self.encoding, self.form) {
            (Encoding::Json { pretty: false }, Form::Object) => Some(Ok(json.clone())),
            (Encoding::Protobuf, Form::Object) => Some(codec::from_json(json).map_err(Status::internal)),
            (Encoding::Cbor, Form::Object) => {
                Some(cbor::from_json(json, any_order()).map(Bytes::from).map_err(Status::internal))
            }
            (Encoding::Protobuf, Form::Metadata) => {
                let version = self.meta_version();
                Some(codec::from_json_as(json, version, "PartialObjectMetadata").map_err(Status::internal))
            }
            _ => None,
        }
    }

    /// Whether it is no text.
    pub fn is_binary(self) -> bool {
        matches!(self.encoding, Encoding::Protobuf | Encoding::Cbor)
    }

    /// A frame of a watch around an object that was written in this media.
    pub fn frame(self, event: &str, object: &[u8]) -> Bytes {
        match self.encoding {
            Encoding::Protobuf => codec::watch_frame(event, object),
            Encoding::Cbor => cbor::watch_frame(event, object, any_order()).into(),
            Encoding::Json { .. } | Encoding::Yaml => Bytes::from(
                [br#"{"type":""#, event.as_bytes(), br#"","object":"#, object.trim_ascii_end(), b"}\n"]
                    .concat(),
            ),
        }
    }
}

/// The order of CBOR's maps in answers: none, as clients are not to rely on one.
pub fn any_order() -> cbor::Order {
    cbor::Order::Turned(rand::random())
}

/// The apiVersion of metadata-only forms.
pub const META: &str = "meta.k8s.io/v1";

/// The apiVersion that older clients know them by.
const BETA_META: &str = "meta.k8s.io/v1beta1";

/// Renames a table or metadata, and the metadata in them.
fn make_beta(value: &mut Value) {
    if value.get("apiVersion").is_none_or(|version| version != META) {
        return;
    }
    value["apiVersion"] = BETA_META.into();
    for member in value.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten() {
        make_beta(member);
    }
    for row in value.get_mut("rows").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(object) = row.get_mut("object") {
            make_beta(object);
        }
    }
}

impl<'a> Clause<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.split(';').map(str::trim);
        let media = parts.next().filter(|media| !media.is_empty())?;
        let mut clause = Self { media, parameters: Vec::new(), quality: 1000 };
        for (name, value) in parts.filter_map(|p| p.split_once('=')) {
            if name == "q" {
                let quality: f64 = value.parse().unwrap_or(1.0);
                // Between 0 and 1000 after clamping.
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
                let thousandths = (quality.clamp(0.0, 1.0) * 1000.0) as u16;
                clause.quality = thousandths;
            } else {
                clause.parameters.push((name, value));
            }
        }
        Some(clause)
    }

    /// What an encoding gives for this clause; `None` when the two do not meet.
    fn serve(&self, encoding: Encoding, offer: Offer) -> Option<Media> {
        let mut media = Media { encoding, ..Media::JSON };
        if !matches!(self.media, "application/*" | "*/*") && self.media != media.content_type() {
            return None;
        }
        if offer.watch && encoding == Encoding::Yaml {
            return None;
        }
        let (mut convert, mut kind, mut group, mut version) = (false, "", "", "");
        for (name, value) in &self.parameters {
            match *name {
                "as" => kind = value,
                "g" => group = value,
                "v" => version = value,
                "stream" if *value != "watch" || encoding == Encoding::Yaml => return None,
                "pretty" if *value == "1" && matches!(encoding, Encoding::Json { .. }) => {
                    media.encoding = Encoding::Json { pretty: true };
                }
                _ => {}
            }
            convert |= matches!(*name, "as" | "g" | "v");
        }
        let protobuf = encoding == Encoding::Protobuf;
        media.form = match kind {
            _ if !convert => Form::Object,
            _ if group != "meta.k8s.io" || !matches!(version, "v1" | "v1beta1") => return None,
            "Table" if !protobuf && offer.table => Form::Table,
            "PartialObjectMetadata" | "PartialObjectMetadataList" => Form::Metadata,
            _ => return None,
        };
        media.of_list = kind == "PartialObjectMetadataList" && media.form == Form::Metadata;
        media.beta = version == "v1beta1" && media.form != Form::Object;
        // Metadata is a message of its own, which custom resources have as well.
        let is_spoken = encoding != Encoding::Cbor || offer.cbor;
        (is_spoken && (!protobuf || offer.protobuf || media.form == Form::Metadata)).then_some(media)
    }
}

/// Reads a JSON, YAML, protobuf or CBOR body by its Content-Type; none means JSON.
pub fn decode(headers: &HeaderMap, body: &[u8], speaks_cbor: bool) -> Result<Value, Status> {
    Ok(schema::read(headers, body, speaks_cbor).map(|sent| sent.node.to_value())?)
}

#[cfg(test)]
mod tests;
