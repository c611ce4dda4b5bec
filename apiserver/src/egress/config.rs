//! EgressSelectorConfiguration: by which proxy which network is reached.
//!
//! Contract: apiserver.k8s.io/v1beta1 and v1alpha1, which are the same; upstream's `egressselector/config.go`.

use std::{
    collections::{HashMap, HashSet},
    path::{Path as File, PathBuf},
    sync::Arc,
};

use component_base::{
    config::{self, ConfigError},
    task::Tasks,
    tls::{self, TlsError},
};
use http::Uri;
use rustls::pki_types::ServerName;
use serde::Deserialize;

use super::{Egress, HttpConnect, Konnectivity, Network, Proxy, Route};
use crate::{
    field::{Error, ErrorList, Path},
    proxy::dial::client_tls,
};

const KIND: &str = "EgressSelectorConfiguration";
const VERSIONS: [&str; 2] = ["apiserver.k8s.io/v1beta1", "apiserver.k8s.io/v1alpha1"];
const PROTOCOLS: [&str; 3] = ["Direct", "GRPC", "HTTPConnect"];
const NETWORKS: [&str; 3] = ["cluster", "controlplane", "etcd"];

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Configuration {
    egress_selections: Vec<Selection>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Selection {
    name: String,
    connection: Connection,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct Connection {
    proxy_protocol: String,
    transport: Option<Transport>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Transport {
    tcp: Option<Tcp>,
    uds: Option<Uds>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct Tcp {
    url: String,
    tls_config: Option<Tls>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct Uds {
    uds_name: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct Tls {
    ca_bundle: String,
    client_key: String,
    client_cert: String,
    tls_server_name: String,
}

/// Why the file is of no use.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It does not decode.
    #[error("egress selector configuration")]
    Config(#[from] ConfigError),
    /// It decodes, but makes no sense.
    #[error("failed to validate egress selector configuration: {0}")]
    Invalid(String),
    /// A certificate or key it names is of no use.
    #[error("failed to create dialer for egressSelection {0:?}")]
    Tls(String, #[source] TlsError),
    /// TLS towards a proxy cannot be set up.
    #[error("failed to create dialer for egressSelection {0:?}: {1}")]
    Proxy(String, String),
}

/// Reads the file.
pub(super) fn load(path: &File, tasks: &Tasks) -> Result<Egress, LoadError> {
    let read = |version: &str| config::load_content::<Configuration>(path, version, KIND);
    let [newer, older] = VERSIONS;
    let read = match read(newer) {
        Err(error @ ConfigError::Kind { .. }) => read(older).map_err(|other| match other {
            ConfigError::Kind { .. } => error,
            other => other,
        }),
        read => read,
    };
    settle(read?, tasks)
}

fn settle(configuration: Configuration, tasks: &Tasks) -> Result<Egress, LoadError> {
    let errors = configuration.validate();
    if !errors.is_empty() {
        let all: Vec<String> = errors.iter().map(ToString::to_string).collect();
        return Err(LoadError::Invalid(all.join(", ")));
    }
    let mut routes = HashMap::new();
    for Selection { name, connection } in configuration.egress_selections {
        if let Some(network) = Network::named(canonical(&name)) {
            routes.insert(network, connection.route(&name, tasks)?);
        }
    }
    Ok(Egress(Arc::new(routes)))
}

/// The name in use for one that was before it.
fn canonical(name: &str) -> &str {
    if name == "master" { "controlplane" } else { name }
}

// === impl Configuration ===

impl Configuration {
    /// Everything wrong with it. The paths are upstream's, which do not say of which selection they are.
    fn validate(&self) -> ErrorList {
        let mut errors = ErrorList::new();
        let at = Path::new("service").child("connection");
        for selection in &self.egress_selections {
            selection.connection.validate(&at, &mut errors);
        }
        let mut seen = HashSet::new();
        for (index, selection) in self.egress_selections.iter().enumerate() {
            let name = canonical(&selection.name).to_lowercase();
            if !seen.insert(name.clone()) {
                errors.push(Error::duplicate(&at.index(index), name));
            } else if Network::named(&name).is_none() {
                errors.push(Error::not_supported(&at, name, &NETWORKS));
            }
        }
        errors
    }
}

// === impl Connection ===

impl Connection {
    fn validate(&self, at: &Path, errors: &mut ErrorList) {
        let missing =
            |of: &str| Error::required(&at.child("transport"), format!("transport must be set for {of}"));
        match (self.proxy_protocol.as_str(), &self.transport) {
            ("Direct", None) => {}
            ("Direct", Some(_)) => {
                let why = "config must be absent for direct connect";
                errors.push(Error::invalid(&at.child("transport"), "direct", why));
            }
            ("HTTPConnect", None) => errors.push(missing("HTTPConnect")),
            ("HTTPConnect", Some(transport)) => transport.validate_http_connect(at, errors),
            ("GRPC", None) => errors.push(missing("GRPC")),
            ("GRPC", Some(Transport { uds: Some(uds), .. })) => uds.validate(at, errors),
            ("GRPC", Some(_)) => {
                errors.push(Error::required(&at.child("uds"), "UDS must be set with GRPC"));
            }
            (other, _) => errors.push(Error::not_supported(&at.child("protocol"), other, &PROTOCOLS)),
        }
    }

    /// The way that a valid one describes.
    fn route(self, name: &str, tasks: &Tasks) -> Result<Route, LoadError> {
        let grpc = self.proxy_protocol == "GRPC";
        Ok(match self.transport {
            None => Route::default(),
            Some(Transport { uds: Some(uds), .. }) if grpc => {
                let socket = PathBuf::from(uds.uds_name);
                Route::through(Proxy::Konnectivity(Konnectivity { socket, tasks: tasks.clone() }))
            }
            Some(Transport { uds: Some(uds), .. }) => {
                Route::through(Proxy::HttpConnect(HttpConnect::Unix(PathBuf::from(uds.uds_name))))
            }
            Some(Transport { tcp, .. }) => {
                Route::through(Proxy::HttpConnect(tcp.unwrap_or_default().proxy(name)?))
            }
        })
    }
}

// === impl Transport ===

impl Transport {
    fn validate_http_connect(&self, at: &Path, errors: &mut ErrorList) {
        match (&self.tcp, &self.uds) {
            (Some(tcp), Some(_)) => {
                let why = "TCP and UDS cannot both be set";
                errors.push(Error::invalid(&at.child("tcp"), tcp.url.as_str(), why));
            }
            (None, None) => {
                errors.push(Error::required(&at.child("tcp"), "One of TCP or UDS must be set"));
            }
            (Some(tcp), None) => tcp.validate(at, errors),
            (None, Some(uds)) => uds.validate(at, errors),
        }
    }
}

// === impl Uds ===

impl Uds {
    fn validate(&self, at: &Path, errors: &mut ErrorList) {
        if self.uds_name.is_empty() {
            let why = "must be present for UDS connections";
            errors.push(Error::invalid(&at.child("udsName"), "nil", why));
        }
    }
}

// === impl Tcp ===

impl Tcp {
    fn validate(&self, at: &Path, errors: &mut ErrorList) {
        let tls = at.child("tlsConfig");
        if self.url.starts_with("http://") {
            if self.tls_config.is_some() {
                let why = "config must not be present when using HTTP";
                errors.push(Error::invalid(&tls, "nil", why));
            }
        } else if self.url.starts_with("https://") {
            match &self.tls_config {
                Some(config) => config.validate(&tls, errors),
                None => errors.push(Error::required(&tls, "TLSConfig must be present when using HTTPS")),
            }
        } else {
            let why = "supported connection protocols are http:// and https://";
            errors.push(Error::invalid(&at.child("url"), self.url.as_str(), why));
        }
    }

    /// The proxy that a valid one describes.
    fn proxy(self, name: &str) -> Result<HttpConnect, LoadError> {
        let unusable = |why: String| LoadError::Proxy(name.to_owned(), why);
        let invalid = |why: &str| unusable(format!("invalid proxy server url {:?}: {why}", self.url));
        let uri: Uri =
            self.url.parse().map_err(|error: http::uri::InvalidUri| invalid(&error.to_string()))?;
        let host = uri.host().ok_or_else(|| invalid("there is no host"))?;
        let host = host.trim_matches(['[', ']']).to_owned();
        let default = if self.tls_config.is_some() { 443 } else { 80 };
        let port = uri.port_u16().unwrap_or(default);
        let Some(config) = self.tls_config else { return Ok(HttpConnect::Tcp { host, port, tls: None }) };
        let failed = |error| LoadError::Tls(name.to_owned(), error);
        let pair = tls::load_pair(File::new(&config.client_cert), File::new(&config.client_key));
        let roots = match config.ca_bundle.as_str() {
            "" => tls::trust::system_roots(),
            file => tls::load_roots(File::new(file)).map_err(failed)?,
        };
        let client = client_tls(Some(roots), Some(&pair.map_err(failed)?));
        let client = client.map_err(|error| unusable(error.to_string()))?;
        let shown = if config.tls_server_name.is_empty() { host.clone() } else { config.tls_server_name };
        let shown = ServerName::try_from(shown).map_err(|error| unusable(error.to_string()))?;
        Ok(HttpConnect::Tcp { host, port, tls: Some((client, shown)) })
    }
}

// === impl Tls ===

impl Tls {
    fn validate(&self, at: &Path, errors: &mut ErrorList) {
        let mut file = |field: &str, path: &str, required: Option<&str>, what: &str| {
            let at = at.child(field);
            match (path, required) {
                ("", None) => {}
                ("", Some(why)) => errors.push(Error::invalid(&at, "nil", why)),
                (path, _) if File::new(path).exists() => {}
                (path, _) => errors.push(Error::invalid(&at, path, format!("TLS {what} does not exist"))),
            }
        };
        file("caBundle", &self.ca_bundle, None, "config ca bundle");
        file("clientCert", &self.client_cert, Some("Using TLS requires clientCert"), "client cert");
        file("clientKey", &self.client_key, Some("Using TLS requires requires clientKey"), "client key");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(selections: &str) -> Result<Egress, String> {
        let text = format!("apiVersion: {}\nkind: {KIND}\negressSelections: [{selections}]", VERSIONS[0]);
        let read = config::parse_content(&text, "test", VERSIONS[0], KIND).map_err(|e| e.to_string())?;
        settle(read, &Tasks::new()).map_err(|error| error.to_string())
    }

    #[test]
    fn networks_have_the_way_the_file_says() {
        let egress = read(
            "{name: Cluster, connection: {proxyProtocol: GRPC, transport: {uds: {udsName: /a}}}}, \
             {name: master, connection: {proxyProtocol: HTTPConnect, transport: {tcp: {url: 'http://p:1'}}}}, \
             {name: etcd, connection: {proxyProtocol: Direct}}",
        );
        let egress = egress.unwrap();
        assert!(matches!(
            egress.of(Network::Cluster).0.as_deref(),
            Some(Proxy::Konnectivity(one)) if one.socket == File::new("/a")
        ));
        assert!(matches!(
            egress.of(Network::ControlPlane).0.as_deref(),
            Some(Proxy::HttpConnect(HttpConnect::Tcp { port: 1, tls: None, .. }))
        ));
        assert!(egress.selected(Network::Etcd).is_some_and(|route| route.is_direct()));
        assert!(read("").unwrap().selected(Network::Etcd).is_none());
    }

    #[test]
    fn what_makes_no_sense_is_refused_in_upstreams_words() {
        let of = |connection: &str| format!("{{name: cluster, connection: {{{connection}}}}}");
        let tcp = |tcp: &str| of(&format!("proxyProtocol: HTTPConnect, transport: {{tcp: {{{tcp}}}}}"));
        for (selections, why) in [
            (of("proxyProtocol: SOCKS"), "service.connection.protocol: Unsupported value: \"SOCKS\""),
            (of("proxyProtocol: Direct, transport: {}"), "config must be absent for direct connect"),
            (of("proxyProtocol: GRPC"), "transport must be set for GRPC"),
            (of("proxyProtocol: GRPC, transport: {tcp: {url: 'http://a'}}"), "UDS must be set with GRPC"),
            (of("proxyProtocol: GRPC, transport: {uds: {}}"), "must be present for UDS connections"),
            (of("proxyProtocol: HTTPConnect"), "transport must be set for HTTPConnect"),
            (of("proxyProtocol: HTTPConnect, transport: {}"), "One of TCP or UDS must be set"),
            (
                of("proxyProtocol: HTTPConnect, transport: {tcp: {}, uds: {}}"),
                "TCP and UDS cannot both be set",
            ),
            (tcp("url: 'ftp://a'"), "supported connection protocols are http:// and https://"),
            (tcp("url: 'https://a'"), "TLSConfig must be present when using HTTPS"),
            (tcp("url: 'http://a', tlsConfig: {}"), "config must not be present when using HTTP"),
            (tcp("url: 'https://a', tlsConfig: {clientKey: /none}"), "Using TLS requires clientCert"),
            (tcp("url: 'https://a', tlsConfig: {clientKey: /none}"), "TLS client key does not exist"),
            (tcp("url: 'http://a', unknown: 1"), "unknown"),
            (of("proxyProtocol: Direct").replace("cluster", "moon"), "Unsupported value: \"moon\""),
            (
                format!("{0}, {0}", of("proxyProtocol: Direct")),
                "service.connection[1]: Duplicate value: \"cluster\"",
            ),
        ] {
            let error = read(&selections).err().unwrap_or_default();
            assert!(error.contains(why), "{selections}: {error}");
        }
    }
}
