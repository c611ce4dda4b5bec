//! The command line: CoreDNS' flags where it has them, and how to reach the API server.
//!
//! Go's `flag` package takes `-conf` as well as `--conf`; so does this.

use std::path::PathBuf;

use clap::{Arg, ArgMatches, Command};

/// Everything [`crate::run`] needs from the command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// `--conf`: the Corefile.
    pub corefile: PathBuf,
    /// `--kubeconfig`; the pod's service account when absent.
    pub kubeconfig: Option<PathBuf>,
    /// `--master`.
    pub master: Option<String>,
    /// `--dns.port`: port of blocks that name none; 53 when absent.
    pub port: Option<u16>,
}

const FLAGS: [(&str, &str); 4] = [
    ("conf", "Corefile to load (default Corefile)"),
    ("kubeconfig", "File with the API server's address and credentials; in a pod its service account"),
    ("master", "Address of the API server, overriding the one of the kubeconfig"),
    ("dns.port", "Port of server blocks that name none (default 53)"),
];

fn command() -> Command {
    let flags = FLAGS.iter().map(|(name, help)| Arg::new(*name).long(*name).help(*help).num_args(1));
    Command::new("kube-dns").version("Kubernetes v1.36.0").args(flags)
}

impl Config {
    /// Reads the command line. `--help` and `--version` come back as errors that print themselves.
    pub fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Self, clap::Error> {
        let matches = command().try_get_matches_from(arguments.into_iter().map(double_dash))?;
        let text = |name: &str| matches.get_one::<String>(name).cloned();
        Ok(Self {
            corefile: text("conf").unwrap_or_else(|| "Corefile".to_owned()).into(),
            kubeconfig: text("kubeconfig").map(PathBuf::from),
            master: text("master"),
            port: port(&matches)?,
        })
    }
}

fn port(matches: &ArgMatches) -> Result<Option<u16>, clap::Error> {
    let Some(text) = matches.get_one::<String>("dns.port") else { return Ok(None) };
    let bad = |_| {
        let why = format!("invalid value {text:?} for flag --dns.port");
        command().error(clap::error::ErrorKind::ValueValidation, why)
    };
    text.parse().map(Some).map_err(bad)
}

fn double_dash(argument: String) -> String {
    let letters = argument.strip_prefix('-').filter(|rest| !rest.starts_with('-') && rest.len() > 1);
    letters.map(|rest| format!("--{rest}")).unwrap_or(argument)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Config, clap::Error> {
        Config::parse(["kube-dns"].iter().chain(arguments).map(|a| (*a).to_owned()))
    }

    #[test]
    fn both_dashes_and_refusals() {
        let config = parse(&["-conf", "/etc/Corefile", "--kubeconfig=k", "-dns.port=1053"]).unwrap();
        assert_eq!(config.corefile, PathBuf::from("/etc/Corefile"));
        assert_eq!((config.kubeconfig, config.port), (Some(PathBuf::from("k")), Some(1053)));
        assert_eq!(parse(&[]).unwrap().corefile, PathBuf::from("Corefile"));
        for bad in ["--cnf=x", "--dns.port=x", "stray"] {
            assert!(parse(&[bad]).is_err(), "{bad}");
        }
    }
}
