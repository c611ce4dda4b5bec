//! Content negotiation: which encoding and which form (object, table, metadata) a response takes.
//!
//! Contract: upstream's `endpoints/handlers/negotiation`: clauses are tried in the order sent, the first one
//! that can be served wins; none is 406.

use bytes::Bytes;
use http::{HeaderMap, header};
use serde_json::Value;

use crate::status::Status;

/// How a response is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// JSON, indented when asked for.
    Json {
        /// `?pretty=1`.
        pretty: bool,
    },
    /// YAML.
    Yaml,
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
}

const OFFERED: [&str; 2] = ["application/json", "application/yaml"];

impl Media {
    /// Chooses by the Accept header; `pretty` is the query parameter.
    pub fn choose(headers: &HeaderMap, pretty: bool) -> Result<Self, Status> {
        let json = Encoding::Json { pretty };
        let mut any = false;
        for value in headers.get_all(header::ACCEPT) {
            for clause in value.to_str().unwrap_or_default().split(',').map(str::trim) {
                if clause.is_empty() {
                    continue;
                }
                any = true;
                let mut parts = clause.split(';').map(str::trim);
                let encoding = match parts.next().unwrap_or_default() {
                    "application/json" | "application/*" | "*/*" => json,
                    "application/yaml" => Encoding::Yaml,
                    _ => continue,
                };
                if let Some(form) = form(parts) {
                    return Ok(Self { encoding, form });
                }
            }
        }
        if any {
            Err(Status::not_acceptable(&OFFERED))
        } else {
            Ok(Self { encoding: json, form: Form::Object })
        }
    }

    /// Whether stored bytes can be sent as they are.
    pub fn is_plain(self) -> bool {
        self == Self { encoding: Encoding::Json { pretty: false }, form: Form::Object }
    }

    /// The Content-Type.
    pub fn content_type(self) -> &'static str {
        match self.encoding {
            Encoding::Json { .. } => "application/json",
            Encoding::Yaml => "application/yaml",
        }
    }

    /// Writes a value.
    pub fn encode(self, value: &Value) -> Result<Bytes, Status> {
        let mut bytes = match self.encoding {
            Encoding::Json { pretty: false } => value.to_string().into_bytes(),
            Encoding::Json { pretty: true } => serde_json::to_vec_pretty(value).map_err(Status::internal)?,
            Encoding::Yaml => serde_saphyr::to_string(value).map_err(Status::internal)?.into_bytes(),
        };
        if !bytes.ends_with(b"\n") {
            bytes.push(b'\n');
        }
        Ok(bytes.into())
    }
}

/// The form a clause's parameters ask for; `None` when it cannot be served.
fn form<'a>(parameters: impl Iterator<Item = &'a str>) -> Option<Form> {
    let (mut kind, mut group, mut version) = ("", "meta.k8s.io", "v1");
    for (name, value) in parameters.filter_map(|p| p.split_once('=')) {
        match name {
            "as" => kind = value,
            "g" => group = value,
            "v" => version = value,
            "stream" => return None,
            _ => {}
        }
    }
    match kind {
        "" => Some(Form::Object),
        _ if group != "meta.k8s.io" || version != "v1" => None,
        "Table" => Some(Form::Table),
        "PartialObjectMetadata" | "PartialObjectMetadataList" => Some(Form::Metadata),
        _ => None,
    }
}

/// Reads a JSON or YAML body by its Content-Type; none means JSON.
pub fn decode(headers: &HeaderMap, body: &[u8]) -> Result<Value, Status> {
    let sent = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let media = sent.split(';').next().unwrap_or_default().trim();
    match media {
        "" | "application/json" => serde_json::from_slice(body)
            .map_err(|e| Status::bad_request(format!("error decoding JSON request body: {e}"))),
        "application/yaml" => {
            let text = std::str::from_utf8(body)
                .map_err(|e| Status::bad_request(format!("error decoding YAML request body: {e}")))?;
            serde_saphyr::from_str(text)
                .map_err(|e| Status::bad_request(format!("error converting YAML to JSON: {e}")))
        }
        _ => Err(Status::unsupported_media_type(&OFFERED)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_servable_clause_wins() {
        let json = Encoding::Json { pretty: false };
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        let cases = [
            ("", Some((json, Form::Object))),
            ("*/*", Some((json, Form::Object))),
            (table, Some((json, Form::Table))),
            (
                "application/json;as=Table;v=v1beta1;g=meta.k8s.io, application/json",
                Some((json, Form::Object)),
            ),
            ("application/vnd.kubernetes.protobuf, application/json", Some((json, Form::Object))),
            ("application/yaml", Some((Encoding::Yaml, Form::Object))),
            ("application/vnd.kubernetes.protobuf", None),
            (
                "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
                Some((json, Form::Metadata)),
            ),
        ];
        for (accept, want) in cases {
            let mut headers = HeaderMap::new();
            if !accept.is_empty() {
                headers.insert(header::ACCEPT, accept.parse().unwrap());
            }
            let got = Media::choose(&headers, false).ok().map(|m| (m.encoding, m.form));
            assert_eq!(got, want, "{accept}");
        }
    }
}
