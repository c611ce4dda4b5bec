//! What the server says of itself in the class CH: its version, its host and who made it. Pure.
//!
//! Contract: CoreDNS' plugin chaos; RFC 4892 for `id.server`.

use hickory_server::proto::{
    op::Query,
    rr::{DNSClass, RData, Record, RecordType, rdata::TXT},
};

/// Bytes of a text at the most (RFC 1035, 3.3).
const LONGEST: usize = 255;

/// `chaos [VERSION] [AUTHORS…]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chaos {
    /// What is told as the version.
    pub version: String,
    /// Who is told as authors.
    pub authors: Vec<String>,
    /// What the host is called.
    pub host: String,
}

impl Chaos {
    /// The answer to a question about the server; `None` for all others.
    pub fn answer(&self, query: &Query) -> Option<Vec<Record>> {
        if query.query_class() != DNSClass::CH || query.query_type() != RecordType::TXT {
            return None;
        }
        let texts = match query.name().to_ascii().to_ascii_lowercase().as_str() {
            "authors.bind." => self.authors.clone(),
            "version.bind." | "version.server." => vec![self.version.clone()],
            "hostname.bind." | "id.server." => vec![self.host.clone()],
            _ => return None,
        };
        let record = |mut text: String| {
            while text.len() > LONGEST {
                text.pop();
            }
            let mut record = Record::from_rdata(query.name().clone(), 0, RData::TXT(TXT::new(vec![text])));
            record.dns_class = DNSClass::CH;
            record
        };
        Some(texts.into_iter().map(record).collect())
    }
}
