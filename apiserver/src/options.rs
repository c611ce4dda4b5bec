//! The server's flags, parsed and checked into one [`Config`].
//!
//! Contract: upstream's kube-apiserver flags of the same names.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::{authn, authz, bootstrap::authentication_facts::RequestHeader};

/// Everything [`crate::run::build`] needs.
#[derive(Clone, Debug)]
pub struct Config {
    /// `--bind-address`.
    pub bind_address: IpAddr,
    /// `--secure-port`; 0 picks a free one.
    pub secure_port: u16,
    /// `--tls-cert-file`.
    pub tls_cert: PathBuf,
    /// `--tls-private-key-file`.
    pub tls_key: PathBuf,
    /// `--etcd-servers`.
    pub etcd_servers: Vec<String>,
    /// `--etcd-prefix`.
    pub etcd_prefix: String,
    /// `--etcd-cafile`, `--etcd-certfile`, `--etcd-keyfile`.
    pub etcd_tls: crate::storage::TlsFiles,
    /// `--authorization-mode`.
    pub modes: Vec<authz::Mode>,
    /// `--anonymous-auth`.
    pub anonymous: bool,
    /// `--max-requests-inflight`.
    pub reads_inflight: usize,
    /// `--max-mutating-requests-inflight`.
    pub writes_inflight: usize,
    /// Time for requests in flight after SIGTERM.
    pub grace: Duration,
    /// Authentication.
    pub authn: authn::Options,
    /// `--enable-admission-plugins`.
    pub enable_admission: Vec<String>,
    /// `--disable-admission-plugins`.
    pub disable_admission: Vec<String>,
    /// `--service-cluster-ip-range`, primary family first.
    pub service_ranges: Vec<ipnet::IpNet>,
    /// `--service-node-port-range`.
    pub node_ports: std::ops::RangeInclusive<u16>,
    /// `--advertise-address`; the bind address, or the address of the default route, when not given.
    pub advertise: Option<IpAddr>,
    /// `--kubernetes-service-node-port`, 0 = none.
    pub kubernetes_node_port: u16,
    /// `--requestheader-client-ca-file` and the flags beside it.
    pub request_header: Option<(PathBuf, RequestHeader)>,
}

/// Name, default and help of a flag that takes a value; repeated values add up.
const VALUES: [(&str, &str, &str); 36] = [
    ("bind-address", "0.0.0.0", "Address of the secure port"),
    ("secure-port", "6443", "Port that serves HTTPS"),
    ("tls-cert-file", "", "Serving certificate with its chain, PEM"),
    ("tls-private-key-file", "", "Key of the serving certificate, PEM"),
    ("etcd-servers", "", "etcd URLs, separated by commas"),
    ("etcd-prefix", "/registry", "Prefix of all keys in etcd"),
    ("etcd-cafile", "", "CA that signs etcd's certificate"),
    ("etcd-certfile", "", "Client certificate for etcd"),
    ("etcd-keyfile", "", "Key of the client certificate for etcd"),
    ("authorization-mode", "AlwaysAllow", "Authorizers in order: AlwaysAllow, AlwaysDeny, Node, RBAC"),
    ("anonymous-auth", "true", "Whether requests without credentials are system:anonymous"),
    ("max-requests-inflight", "400", "Reads in flight; 0 has no limit"),
    ("max-mutating-requests-inflight", "200", "Writes in flight; 0 has no limit"),
    ("client-ca-file", "", "CA of client certificates"),
    ("token-auth-file", "", "File of static tokens"),
    ("enable-bootstrap-token-auth", "false", "Whether bootstrap tokens of kube-system count"),
    ("service-account-key-file", "", "Keys that verify service account tokens"),
    ("service-account-signing-key-file", "", "Key that signs service account tokens"),
    ("service-account-issuer", "", "Issuer of service account tokens"),
    ("api-audiences", "", "Audiences of this server's tokens"),
    ("service-account-lookup", "true", "Whether a token's service account must still exist"),
    ("service-account-jwks-uri", "", "Where the OpenID document says the keys are"),
    ("service-account-max-token-expiration", "0s", "Longest life of an issued token; 0 has no limit"),
    (
        "service-account-extend-token-expiration",
        "true",
        "Whether kubelets' tokens warn for a year before they end",
    ),
    ("service-cluster-ip-range", "10.0.0.0/24", "CIDRs of cluster IPs, one per family"),
    ("service-node-port-range", "30000-32767", "Ports of services of type NodePort"),
    ("kubernetes-service-node-port", "0", "Node port of the kubernetes service"),
    ("advertise-address", "", "Address other members of the cluster reach this server at"),
    ("enable-admission-plugins", "", "Admission plugins to enable beside the default ones"),
    ("disable-admission-plugins", "", "Admission plugins to disable although they are default"),
    ("requestheader-client-ca-file", "", "CA of the front proxy's client certificate"),
    ("requestheader-allowed-names", "", "Common names the front proxy may have"),
    ("requestheader-username-headers", "", "Headers with the user's name"),
    ("requestheader-uid-headers", "", "Headers with the user's uid"),
    ("requestheader-group-headers", "", "Headers with the user's groups"),
    ("requestheader-extra-headers-prefix", "", "Prefixes of headers with extra values"),
];

fn command() -> Command {
    let args = VALUES.iter().map(|(name, default, help)| {
        let shown =
            if default.is_empty() { (*help).to_owned() } else { format!("{help} (default {default})") };
        let arg = Arg::new(*name).long(*name).help(shown).action(ArgAction::Append).require_equals(false);
        if matches!(*default, "true" | "false") {
            arg.num_args(0..=1).require_equals(true).default_missing_value("true")
        } else {
            arg
        }
    });
    Command::new("kube-apiserver").version("Kubernetes v1.36.0").args(args)
}

/// Flags as given, with defaults.
struct Flags(ArgMatches);

impl Flags {
    fn all(&self, name: &str) -> Vec<String> {
        let given = self.0.get_many::<String>(name).into_iter().flatten();
        given.flat_map(|v| v.split(',')).filter(|v| !v.is_empty()).map(str::to_owned).collect()
    }

    fn one(&self, name: &str) -> String {
        let default = VALUES.iter().find(|(n, ..)| *n == name).map_or("", |(_, default, _)| *default);
        let given = self.0.get_many::<String>(name).and_then(|mut values| values.next_back().cloned());
        given.unwrap_or_else(|| default.to_owned())
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        Some(self.one(name)).filter(|p| !p.is_empty()).map(PathBuf::from)
    }

    fn parsed<T: std::str::FromStr>(&self, name: &str) -> Result<T, clap::Error> {
        let text = self.one(name);
        text.parse().map_err(|_| invalid(format!("invalid argument {text:?} for \"--{name}\"")))
    }

    fn required(&self, name: &str) -> Result<PathBuf, clap::Error> {
        self.path(name).ok_or_else(|| invalid(format!("--{name} must be given")))
    }
}

fn invalid(why: String) -> clap::Error {
    command().error(clap::error::ErrorKind::ValueValidation, why)
}

impl Config {
    /// Reads the command line. `--help` and `--version` come back as errors that print themselves.
    pub fn parse(args: impl IntoIterator<Item = String>) -> Result<Self, clap::Error> {
        let flags = Flags(command().try_get_matches_from(args)?);
        let mut modes = flags.all("authorization-mode");
        if modes.is_empty() {
            modes.push("AlwaysAllow".to_owned());
        }
        let etcd_servers = flags.all("etcd-servers");
        if etcd_servers.is_empty() {
            return Err(invalid("--etcd-servers must be specified".to_owned()));
        }
        Ok(Self {
            bind_address: flags.parsed("bind-address")?,
            secure_port: flags.parsed("secure-port")?,
            tls_cert: flags.required("tls-cert-file")?,
            tls_key: flags.required("tls-private-key-file")?,
            etcd_servers,
            etcd_prefix: flags.one("etcd-prefix"),
            etcd_tls: crate::storage::TlsFiles {
                ca: flags.path("etcd-cafile"),
                cert: flags.path("etcd-certfile"),
                key: flags.path("etcd-keyfile"),
            },
            modes: modes.iter().map(|m| m.parse()).collect::<Result<_, String>>().map_err(invalid)?,
            anonymous: flags.parsed("anonymous-auth")?,
            reads_inflight: flags.parsed("max-requests-inflight")?,
            writes_inflight: flags.parsed("max-mutating-requests-inflight")?,
            grace: Duration::from_secs(10),
            authn: flags.authn()?,
            enable_admission: flags.all("enable-admission-plugins"),
            disable_admission: flags.all("disable-admission-plugins"),
            service_ranges: flags.ranges()?,
            node_ports: flags.node_ports()?,
            advertise: match flags.one("advertise-address").as_str() {
                "" => None,
                _ => Some(flags.parsed("advertise-address")?),
            },
            kubernetes_node_port: flags.parsed("kubernetes-service-node-port")?,
            request_header: flags.request_header(),
        })
    }
}

impl Flags {
    fn ranges(&self) -> Result<Vec<ipnet::IpNet>, clap::Error> {
        let given = self.all("service-cluster-ip-range");
        let given = if given.is_empty() { vec![self.one("service-cluster-ip-range")] } else { given };
        let bad =
            |text: &str| invalid(format!("invalid argument {text:?} for \"--service-cluster-ip-range\""));
        let ranges: Vec<ipnet::IpNet> =
            given.iter().map(|t| t.parse().map_err(|_| bad(t))).collect::<Result<_, _>>()?;
        match ranges.as_slice() {
            [_] => Ok(ranges),
            [a, b] if a.addr().is_ipv4() != b.addr().is_ipv4() => Ok(ranges),
            _ => {
                Err(invalid("--service-cluster-ip-range must be one CIDR, or one of each family".to_owned()))
            }
        }
    }

    fn node_ports(&self) -> Result<std::ops::RangeInclusive<u16>, clap::Error> {
        let text = self.one("service-node-port-range");
        let parse = || -> Option<std::ops::RangeInclusive<u16>> {
            if let Some((low, size)) = text.split_once('+') {
                let low: u16 = low.parse().ok()?;
                return Some(low..=low.checked_add(size.parse().ok()?)?);
            }
            let (low, high) = text.split_once('-').unwrap_or((&text, &text));
            let range = low.trim().parse().ok()?..=high.trim().parse().ok()?;
            (!range.is_empty() && *range.start() > 0).then_some(range)
        };
        parse().ok_or_else(|| invalid(format!("invalid argument {text:?} for \"--service-node-port-range\"")))
    }

    fn request_header(&self) -> Option<(PathBuf, RequestHeader)> {
        let path = self.path("requestheader-client-ca-file")?;
        let header = RequestHeader {
            client_ca: String::new(),
            allowed_names: self.all("requestheader-allowed-names"),
            username_headers: self.all("requestheader-username-headers"),
            uid_headers: self.all("requestheader-uid-headers"),
            group_headers: self.all("requestheader-group-headers"),
            extra_headers_prefix: self.all("requestheader-extra-headers-prefix"),
        };
        Some((path, header))
    }

    fn authn(&self) -> Result<authn::Options, clap::Error> {
        Ok(authn::Options {
            client_ca_file: self.path("client-ca-file"),
            token_auth_file: self.path("token-auth-file"),
            bootstrap_tokens: self.parsed("enable-bootstrap-token-auth")?,
            service_account_key_files: self
                .all("service-account-key-file")
                .into_iter()
                .map(PathBuf::from)
                .collect(),
            service_account_signing_key_file: self.path("service-account-signing-key-file"),
            service_account_issuers: self.all("service-account-issuer"),
            api_audiences: self.all("api-audiences"),
            service_account_lookup: self.parsed("service-account-lookup")?,
            jwks_uri: Some(self.one("service-account-jwks-uri")).filter(|uri| !uri.is_empty()),
            max_token_expiration: component_base::goduration::parse(
                &self.one("service-account-max-token-expiration"),
            )
            .map_err(|e| invalid(format!("--service-account-max-token-expiration: {e}")))?,
            extend_token_expiration: self.parsed("service-account-extend-token-expiration")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Config;

    fn parse(extra: &[&str]) -> Result<Config, clap::Error> {
        let base = ["kube-apiserver", "--tls-cert-file=c", "--tls-private-key-file=k", "--etcd-servers=a,b"];
        Config::parse(base.iter().chain(extra).map(|s| (*s).to_owned()))
    }

    #[test]
    fn defaults_lists_and_refusals() {
        let config = parse(&["--authorization-mode=Node,RBAC", "--anonymous-auth=false"]).unwrap();
        assert_eq!((config.secure_port, config.etcd_servers.len(), config.modes.len()), (6443, 2, 2));
        assert!(!config.anonymous);
        assert_eq!(parse(&["--secure-port=1", "--secure-port=2"]).unwrap().secure_port, 2);
        for bad in ["--secure-prt=1", "--secure-port=x", "--authorization-mode=Foo"] {
            assert!(parse(&[bad]).is_err(), "{bad}");
        }
    }
}
