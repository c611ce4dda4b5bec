//! The server's flags, parsed and checked into one [`Config`].
//!
//! Contract: upstream's kube-apiserver flags of the same names.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::{authn, authz};

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
}

/// Name, default and help of a flag that takes a value; repeated values add up.
const VALUES: [(&str, &str, &str); 22] = [
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
    ("service-cluster-ip-range", "", "CIDR of cluster IPs"),
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
        })
    }
}

impl Flags {
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
            ..authn::Options::default()
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
